"""predict with an output that ends in .zarr: the same voxels, block by block."""

import json

import jax
import numpy as np
import pytest
import tensorstore
import tifffile

from jax_seg import predict
from jax_seg.data import preprocess
from jax_seg.data.preprocess import PerVolume
from jax_seg.models.unet import Model
from jax_seg.runs import from_weights
from jax_seg.system import memory
from jax_seg.tasks.kinds import VOLUMES
from tests.predicting import run

BLOCKS = ["--block", "16", "--chunk", "8"]


def voxels(folder):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/0"}}
    return tensorstore.open(spec).result().read().result()


def command(image, output, *flags):
    return ["--input", str(image), "--output", str(output), *map(str, flags), *BLOCKS]


def test_an_ensemble_in_blocks_is_the_ensemble_in_memory(runs, image, tmp_path, capsys):
    flags = ["--workdir", *runs, "--flips", "height"]
    _, mask, probabilities, facts = run(image, tmp_path / "whole", *flags)
    output = tmp_path / "mask.zarr"
    assert predict.main(command(image, output, *flags)) == 0
    np.testing.assert_array_equal(voxels(output), mask)
    stored = json.loads((tmp_path / "mask.json").read_text())
    assert stored["members"] == facts["members"] and stored["flips"] == ["height"]
    assert stored["judged_on"] == facts["judged_on"] and stored["blocks"] == 8
    assert "8 blocks with" in capsys.readouterr().out
    assert predict.main(command(image, output, *flags)) == 0
    assert "8 wanted, 8 done" in capsys.readouterr().out
    other = tmp_path / "p.zarr"
    assert predict.main(command(image, other, *flags, "--dtype", "float16")) == 0
    np.testing.assert_array_equal(voxels(other), probabilities)


def test_flips_of_a_volume_that_is_normalised_by_a_sample_of_itself(image, tmp_path, monkeypatch):
    """The sample depends on the order of the voxels, so it is taken upright."""
    monkeypatch.setattr(preprocess, "PERCENTILE_VOXELS", 100)
    model, rule = Model(filters=2, poolings=1), PerVolume("percentile", 5.0, 95.0, "all")
    params = model.init(jax.random.key(0), np.zeros((1, 8, 8, 8, 1)))["params"]
    network = from_weights.Imported(model, params, rule, (8, 8, 8))
    from_weights.write_workdir(tmp_path / "network", {"": network})
    flags = ["--workdir", str(tmp_path / "network"), "--flips", "height", "width"]
    _, _, probabilities, _ = run(image, tmp_path / "whole", *flags)
    assert predict.main(command(image, tmp_path / "p.zarr", *flags, "--dtype", "float16")) == 0
    np.testing.assert_array_equal(voxels(tmp_path / "p.zarr"), probabilities)


def test_a_volume_that_does_not_fit_is_predicted_in_blocks(
    runs, image, tmp_path, capsys, monkeypatch
):
    _, mask, *_ = run(image, tmp_path / "whole", "--workdir", runs[0])
    monkeypatch.setattr(memory, "available", lambda: 1000)
    output = tmp_path / "folder"
    named = ["--workdir", runs[0], "--input", str(image), "--output", str(output)]
    assert predict.main(named) == 0
    assert "available: it is predicted block by block, as" in capsys.readouterr().out
    np.testing.assert_array_equal(voxels(output / f"{image.stem}.zarr"), mask)
    assert predict.main([*named, "--probabilities"]) == 1
    assert "GiB of memory to predict it" in capsys.readouterr().err
    monkeypatch.undo()  # more memory is free: what was begun in blocks stays in blocks
    assert predict.main(named) == 0 and "finished, blocks" in capsys.readouterr().out
    assert not (output / f"{image.stem}.tif").exists()


def test_steps_run_over_blocks_too(runs, image, tmp_path):
    steps = ["threshold:value=0.5", "remove_small:voxels=30", "close:depth=1,height=1,width=1"]
    flags = ["--workdir", runs[0], "--postprocess", *steps]
    _, mask, *_ = run(image, tmp_path / "whole", *flags)
    assert predict.main(command(image, tmp_path / "mask.zarr", *flags)) == 0
    np.testing.assert_array_equal(voxels(tmp_path / "mask.zarr"), mask)


def test_an_average_needs_the_logits_twice(runs, image, tmp_path, capsys, monkeypatch):
    needed = VOLUMES.needs(image, 2)
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    for name, flags in (("one", []), ("two", [runs[1]]), ("turned", ["--flips", "height"])):
        named = ["--input", str(image), "--output", str(tmp_path / name)]
        assert predict.main(["--workdir", runs[0], *flags, *named]) == 0
        assert ("block by block" in capsys.readouterr().out) == (name != "one")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--region", "0:8,0:8,0:99"], "--region"),
        (["--chunk", "5"], "is not a multiple of --chunk 5"),
        (["--dtype", "uint8", "--threshold", "0.4"], "--dtype writes probabilities"),
        (["--part", "3/2"], "write K/N"),
        (["--part", "1/2", "--overwrite"], "--part would overwrite"),
        (["--overlap", "1.5"], "--overlap is 1.5; it must lie in [0, 1)"),
        (["--submission", "all.zip"], "--submission is for TIFF files"),
    ],
)
def test_bad_flags(runs, image, tmp_path, capsys, flags, words):
    named = ["--workdir", runs[0], *flags]
    given = [f for f in BLOCKS if "--chunk" not in flags or f not in ("--chunk", "8")]
    output = tmp_path / "mask.zarr"
    assert predict.main(["--input", str(image), "--output", str(output), *named, *given]) == 1
    assert words in capsys.readouterr().err and not output.exists()


def test_a_flag_of_blocks_needs_such_an_output(runs, image, tmp_path, capsys):
    status = predict.main(command(image, tmp_path / "out", "--workdir", runs[0]))
    assert status == 1 and "give an --output that ends in .zarr" in capsys.readouterr().err


def test_the_input_is_never_the_output(runs, tmp_path, capsys):
    image = tmp_path / "v.tif"
    tifffile.imwrite(image, np.zeros((16, 16, 16), np.uint8))
    (tmp_path / "own.zarr").mkdir()
    (tmp_path / "own.zarr" / "notes.txt").write_text("mine")
    status = predict.main(command(image, tmp_path / "own.zarr", "--workdir", runs[0]))
    assert status == 1 and "was not written by jax_seg.predict" in capsys.readouterr().err
