"""What predict makes of one network and of several: members, orientations, warnings, bad flags."""

import json

import jax
import numpy as np
import pytest
import tifffile
from scipy.special import expit

from jax_seg import predict
from jax_seg.runs import checkpoints, members
from tests.predicting import logits_of, run
from tests.workdirs import write_run


def test_one_member_is_bit_identical_to_its_network(runs, image, tmp_path):
    for number, threshold in enumerate((0.5, 0.6)):
        flags = ["--workdir", runs[0], "--threshold", threshold]
        _, mask, probabilities, facts = run(image, tmp_path / str(number), *flags)
        logits = logits_of(image, runs[0])
        expected = np.asarray(logits > np.log(threshold / (1 - threshold)), np.uint8)
        np.testing.assert_array_equal(mask, expected)
        assert 0 < mask.mean() < 1
        np.testing.assert_array_equal(probabilities, np.float16(jax.nn.sigmoid(logits)))
        assert facts["step"] == 1 and "members" not in facts


def test_members_by_name(runs, image, tmp_path):
    """WORKDIR@STEP and @swa say what --checkpoint and --weights say."""
    a = runs[0]
    for number, (flags, name, weights) in enumerate(
        [
            (["--workdir", f"{a}@2"], 2, "raw"),
            (["--workdir", a, "--checkpoint", "latest"], 2, "raw"),
            (["--workdir", f"{a}@swa"], 2, "swa"),  # an average keeps improving
            (["--workdir", a, "--weights", "ema"], 2, "ema"),
            (["--workdir", f"{a}@1@ema"], 1, "ema"),
            (["--workdir", f"{a}@best@ema", "--checkpoint", "2"], 1, "ema"),
        ]
    ):
        _, _, found, facts = run(image, tmp_path / str(number), *flags)
        assert (facts["step"], facts["weights"]) == (name, weights)
        expected = jax.nn.sigmoid(logits_of(image, a, name, weights))
        np.testing.assert_array_equal(found, np.float16(expected))


def test_average_of_runs(runs, image, tmp_path):
    a, b = runs
    p = [expit(np.asarray(logits_of(image, w, *more)))
         for w, *more in ((a,), (b,), (b, "latest", "swa"))]  # fmt: skip
    flags = ["--workdir", a, b, f"{b}@swa"]
    _, mask, found, facts = run(image, tmp_path / "equal", *flags)
    np.testing.assert_allclose(found, np.mean(p, axis=0), atol=6e-4)
    clear = abs(np.mean(p, axis=0) - 0.5) > 1e-5
    np.testing.assert_array_equal(mask[clear], (np.mean(p, axis=0) > 0.5)[clear])
    assert [m["weights"] for m in facts["members"]] == ["raw", "raw", "swa"]
    assert [m["weight"] for m in facts["members"]] == pytest.approx([1 / 3] * 3)

    weighed = [*flags, "--member_weights", 0.5, 0.3, 0.2]
    found = run(image, tmp_path / "weighed", *weighed)[2]
    np.testing.assert_allclose(found, 0.5 * p[0] + 0.3 * p[1] + 0.2 * p[2], atol=6e-4)


def test_flips_and_rotations(runs, image, tmp_path):
    volume = tifffile.imread(image)
    network = members.load(members.parse(runs[0]))
    expected = np.mean(
        [
            np.flip(expit(np.asarray(network.segment(np.flip(volume, axes)))), axes)
            for axes in ((), (0,), (2,), (0, 2))
        ],
        axis=0,
    )
    flags = ["--workdir", runs[0], "--flips", "width", "depth"]
    _, _, found, facts = run(image, tmp_path / "flips", *flags)
    np.testing.assert_allclose(found, expected, atol=6e-4)
    assert facts["flips"] == ["depth", "width"] and "rotations" not in facts

    expected = np.mean(
        [
            np.rot90(expit(np.asarray(network.segment(np.rot90(volume, k, (1, 2))))), -k, (1, 2))
            for k in range(4)
        ],
        axis=0,
    )
    _, _, found, facts = run(image, tmp_path / "turns", "--workdir", runs[0], "--rotations")
    np.testing.assert_allclose(found, expected, atol=6e-4)
    assert facts["rotations"] is True


def test_volumes_on_another_scale_and_without_input_are_reported(runs, image, tmp_path, capsys):
    """The runs clip to 0 to 255; of the windows of 16, the scan of 20 voxels needs 2 × 2 × 2."""
    voxels = tifffile.imread(image)
    empty = np.zeros((20, 20, 44), np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, volume in [
        ("sixteen", voxels.astype(np.uint16) * 257 + 1000),
        ("constant", np.full_like(voxels, 80)),
        ("masked", np.concatenate([voxels, empty], -1)),
        ("nothing", empty),
    ]:
        tifffile.imwrite(folder / f"{name}.tif", volume, photometric="minisblack")
    command = ["--workdir", runs[0], "--input", str(folder), "--output", str(tmp_path / "out")]
    assert predict.main(command) == 0
    printed = capsys.readouterr()
    for sentence in (
        "where 100 % of its voxels are clipped to one value",
        "constant.tif is constant (99 % of its voxels are 80)",
        "nothing.tif is constant (99 % of its voxels are 0)",
    ):
        assert printed.err.count(sentence) == 1
    assert printed.err.count("Warning: ") == 3 and "sixteen.tif has intensities" in printed.err
    facts = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")}
    assert "clips to 0 to 255" in facts["sixteen"]["warnings"][0]
    # Along the last axis 64 voxels are covered from 0, 8, … 48: from 24 on there is no scan.
    assert (facts["masked"]["empty_windows"], facts["masked"]["windows"]) == (16, 28)
    assert "16 of 28 windows without input" in printed.out
    mask = tifffile.imread(tmp_path / "out" / "masked.tif")
    assert mask[..., :20].any() and not mask[..., 40:].any()
    assert facts["nothing"]["foreground_share"] == 0


def test_a_network_that_diverged_is_reported(volumes_folder, image, tmp_path, capsys):
    workdir = write_run(tmp_path / "run", volumes_folder)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, checkpoints.read_variables(workdir)[0])
    replaced = lambda *_: (broken, *checkpoint_read(workdir)[1:])  # noqa: E731
    checkpoint_read = checkpoints.read_variables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "read_variables", replaced)
        assert run(image, tmp_path / "out", "--workdir", workdir)[0] == 1
    assert "v0.tif contains NaN" in capsys.readouterr().err


def narrow(config):
    config.data.patch = (16, 16, 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir", "{a}@swaa"], "does not name a network at '@swaa'"),
        (["--workdir", "{a}@1@2"], "does not name a network at '@1'"),
        (["--workdir", "{a}", "{b}", "--member_weights", "1"], "2 members but 1 weights"),
        (["--workdir", "{a}@7"], "no checkpoint '7'"),
        (["--workdir", "{young}@swa"], "has averaged no weights by step 1"),
        (["--workdir", "{young}@ema"], "keeps no average 'ema'"),
        (["--workdir", "{young}", "--rotations"], "16 × 32 voxels"),
        (["--workdir", "{a}", "--postprocess", "keep_largst"], "keep_largest"),
        (["--workdir", "{a}", "--postprocess", "none", "fill_holes"], "step 'none'"),
        (["--workdir", "{a}", "--threshold", "1"], "--threshold is 1.0"),
        (["--ensemble", "{file}"], "holds no ensemble"),
        (["--ensemble", "nowhere.json"], "nowhere.json does not exist"),
        (["--ensemble", "{file}", "--weights", "swa"], "drop --checkpoint, --weights"),
    ],
)
def test_bad_flags(runs, image, volumes_folder, tmp_path, capsys, flags, message):
    (tmp_path / "file").write_text('{"members": 3}')
    young = tmp_path / "young"
    if "{young}" in flags[1]:
        write_run(young, volumes_folder, averages=("swa",), averaged=0, change=narrow)
    names = {"a": runs[0], "b": runs[1], "young": young, "file": tmp_path / "file"}
    flags = [flag.format(**names) for flag in flags]
    assert run(image, tmp_path / "out", *flags)[0] == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_of_members(tmp_path):
    assert members.parse("runs/a") == ("runs/a", "", "")
    assert members.parse("runs/a@latest@ema") == ("runs/a", "latest", "ema")
    assert members.parse("runs/a@ema@120") == ("runs/a", "120", "ema")
    folder = tmp_path / "user@swa"
    folder.mkdir()
    assert members.parse(str(folder)) == (str(folder), "", "")
    assert members.parse(f"{folder}@swa") == (str(folder), "", "swa")
