"""The small forms of the benchmarks run; their numbers mean nothing here."""

from benchmarks import conv, input, train_step


def test_conv(capsys):
    conv.main(["--small"])
    assert "GFLOP" in capsys.readouterr().out


def test_train_step(capsys):
    train_step.main(["--small"])
    assert "ours" in capsys.readouterr().out


def test_input(capsys):
    small = "--volumes 2 --size 24 --patch 16 --batch 1 --filters 2 --poolings 1 --steps 2"
    assert input.main([*small.split(), "--repeats", "1"]) > 0
    assert "patches/s" in capsys.readouterr().out
