"""What predict makes of one network and of several: members, orientations, post-processing."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from scipy.special import expit

from jax_seg import fit_ensemble, models, predict
from jax_seg.data.folder import Volume
from jax_seg.data.preprocess import Preprocessing
from jax_seg.data.readers import open_volume
from jax_seg.infer import postprocess
from jax_seg.infer.network import make_network
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.runs import checkpoints, members
from jax_seg.tasks.kinds import VOLUMES
from tests.conftest import tiny_config
from tests.workdirs import write_run


@pytest.fixture(scope="module")
def runs(volumes_folder, tmp_path_factory):
    """Two runs, the first with two checkpoints, as texts."""
    folder = tmp_path_factory.mktemp("runs")
    a = write_run(folder / "a", volumes_folder, steps=(1, 2))
    return str(a), str(write_run(folder / "b", volumes_folder))


@pytest.fixture
def image(volumes_folder):
    return volumes_folder / "train_images" / "v0.tif"


@functools.cache
def tiny_network():
    """The network of every run here, compiled once."""
    model = models.build(**tiny_config("").model)
    return make_network(model, Preprocessing(0.0, 255.0, 0.0, 1 / 255))


def logits_of(image, workdir, name="best", weights="raw"):
    """A network's logits, without any of the code for ensembles."""
    variables, _, _ = checkpoints.read_variables(workdir, name, weights)
    network = functools.partial(tiny_network(), variables)
    return predict_volume(network, tifffile.imread(image), patch=(16, 16, 16))


def run(image, output, *flags):
    """(exit status, mask, float16 probabilities, sidecar)."""
    command = ["--input", str(image), "--output", str(output), "--probabilities", *map(str, flags)]
    status = predict.main(command)
    name = image.stem
    if not (output / f"{name}.tif").exists():
        return status, None, None, None
    return (
        status,
        tifffile.imread(output / f"{name}.tif"),
        tifffile.imread(output / "probabilities" / f"{name}.tif"),
        json.loads((output / f"{name}.json").read_text()),
    )


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


def test_what_was_made_otherwise_is_not_taken_for_finished(runs, image, tmp_path, capsys):
    a, b = runs
    run(image, tmp_path, "--workdir", a)
    written = (tmp_path / "v0.tif").stat().st_mtime_ns
    for flags, what in [
        (["--workdir", b], "workdir, digest"),
        (["--workdir", f"{a}@2"], "step, digest"),
        (["--workdir", a, b], "workdir, step, weights, digest, overlap, members"),
        (["--workdir", a, "--flips", "height"], "flips"),
        (["--workdir", a, "--rotations"], "rotations"),
        (["--workdir", a, "--overlap", "0.25"], "overlap"),
        (["--workdir", a, "--postprocess", "remove_small"], "postprocess"),
    ]:
        assert run(image, tmp_path, *flags)[0] == 1
        assert f"made with another {what};" in capsys.readouterr().err
    assert run(image, tmp_path, "--workdir", a, "--postprocess", "none")[0] == 0
    assert "finished already" in capsys.readouterr().out
    assert (tmp_path / "v0.tif").stat().st_mtime_ns == written

    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert run(image, tmp_path, "--workdir", a)[0] == 1
    assert "made with another image;" in capsys.readouterr().err

    run(image, tmp_path / "both", "--workdir", a, b)
    assert run(image, tmp_path / "both", "--workdir", a, b)[0] == 0
    assert run(image, tmp_path / "both", "--workdir", a, b, "--member_weights", 2, 1)[0] == 1
    assert "another members" in capsys.readouterr().err


@pytest.fixture
def tuned(volumes_folder, tmp_path):
    """A run with post-processing in its configuration, and another list that was tuned."""

    def steps(config):
        config.postprocess.steps = ("remove_small:voxels=9",)

    workdir = write_run(tmp_path / "tuned", volumes_folder, change=steps)
    (workdir / "postprocess.json").write_text(
        json.dumps({"steps": ["threshold:value=0.4", "remove_small:voxels=30"]})
    )
    return workdir


def test_post_processing_is_the_tuned_one_by_default(tuned, image, tmp_path, capsys):
    probability = np.asarray(jax.nn.sigmoid(logits_of(image, tuned)))
    for number, (flags, steps) in enumerate(
        [
            ([], ["threshold:value=0.4", "remove_small:voxels=30"]),
            (["--threshold", "0.6"], ["threshold:value=0.6", "remove_small:voxels=30"]),
            (["--postprocess", "keep_largest"], ["threshold:value=0.5", "keep_largest"]),
            (
                ["--postprocess", "keep_largest", "--threshold", "0.6"],
                ["threshold:value=0.6", "keep_largest"],
            ),
            (
                ["--postprocess", "hysteresis:low=0.4,high=0.5", "fill_holes"],
                ["hysteresis:low=0.4,high=0.5", "fill_holes"],
            ),
        ]
    ):
        _, mask, _, facts = run(image, tmp_path / str(number), "--workdir", tuned, *flags)
        assert facts["postprocess"] == steps
        assert ("threshold" in facts) == steps[0].startswith("threshold")
        expected = postprocess.apply(probability, tifffile.imread(image), steps)
        np.testing.assert_array_equal(mask, expected)
    printed = capsys.readouterr().out
    assert printed.count("takes the place of the step") == 1
    assert "--threshold 0.6 takes the place of the step threshold:value=0.4" in printed


def test_post_processing_of_the_configuration_and_none(tuned, image, tmp_path):
    facts = run(image, tmp_path / "none", "--workdir", tuned, "--postprocess", "none")[3]
    assert facts["threshold"] == 0.5 and "postprocess" not in facts
    (tuned / "postprocess.json").unlink()
    facts = run(image, tmp_path / "own", "--workdir", tuned)[3]
    assert facts["postprocess"] == ["threshold:value=0.5", "remove_small:voxels=9"]


def test_members_must_agree(tuned, runs, image, volumes_folder, tmp_path, capsys):
    assert run(image, tmp_path / "out", "--workdir", tuned, runs[0])[0] == 1
    assert "differ in their post-processing" in capsys.readouterr().err
    flags = ["--workdir", tuned, runs[0], "--postprocess", "fill_holes"]
    assert run(image, tmp_path / "out", *flags)[0] == 0

    lower = write_run(
        tmp_path / "lower", volumes_folder, change=lambda c: c.validate.update(threshold=0.3)
    )
    assert run(image, tmp_path / "two", "--workdir", lower, runs[0])[0] == 1
    assert "differ in their threshold (0.3, 0.5): choose with --th" in capsys.readouterr().err
    flags = ["--workdir", lower, runs[0], "--threshold", "0.4"]
    assert run(image, tmp_path / "two", *flags)[3]["threshold"] == 0.4


def test_a_network_that_diverged_is_reported(volumes_folder, image, tmp_path, capsys):
    workdir = write_run(tmp_path / "run", volumes_folder)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, checkpoints.read_variables(workdir)[0])
    replaced = lambda *_: (broken, *checkpoint_read(workdir)[1:])  # noqa: E731
    checkpoint_read = checkpoints.read_variables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "read_variables", replaced)
        assert run(image, tmp_path / "out", "--workdir", workdir)[0] == 1
    assert "v0.tif is not a number" in capsys.readouterr().err


def test_the_sidecar_says_which_volumes_were_trained_on(runs, volumes_folder, tmp_path, capsys):
    split = checkpoints.read_variables(runs[0])[1]["split"]
    flags = ["--workdir", runs[0], "--input", str(volumes_folder / "train_images")]
    assert predict.main([*flags, "--output", str(tmp_path)]) == 0
    parts = (("training", "training", []), ("validation", "held out", ["checkpoint"]))
    for part, volumes, chose in parts:
        for name in split[part]:
            facts = json.loads((tmp_path / f"{name}.json").read_text())
            assert facts["judged_on"] == {"volumes": volumes, "chose": chose}
    printed = capsys.readouterr().out.splitlines()
    marked = {line.split("/")[-1][:2] for line in printed if line.endswith(" | training volume")}
    assert marked == set(split["training"])


@pytest.mark.parametrize(("part", "said"), [("training", True), ("held out", False)])
def test_steps_that_were_tuned_on_training_volumes_are_said_so(
    image, volumes_folder, tmp_path, capsys, part, said
):
    workdir = write_run(tmp_path / "run", volumes_folder)
    on = {"volumes": part, "chose": []}
    content = {"steps": ["threshold:value=0.4"], "judged_on": on}
    (workdir / "postprocess.json").write_text(json.dumps(content))
    assert run(image, tmp_path / "out", "--workdir", workdir)[0] == 0
    printed = capsys.readouterr().out
    assert ("postprocess.json were chosen on training volumes" in printed) == said


def test_fitted_weights_are_read_by_predict(runs, image, tmp_path, capsys):
    a, b = runs
    file = tmp_path / "ensemble.json"
    assert fit_ensemble.main([a, f"{a}@2", f"{b}@swa", "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "nats per voxel on volumes left out of the fit: fitted" in printed
    fitted = json.loads(file.read_text())
    assert fitted["members"] == [f"{a}@1@raw", f"{a}@2@raw", f"{b}@1@swa"]
    assert sum(fitted["weights"]) == pytest.approx(1) and len(fitted["fitted_to"]) == 2
    chose = ["checkpoint", "kind of weights"]
    assert fitted["judged_on"] == {"volumes": "held out", "chose": chose}
    found = run(image, tmp_path / "file", "--ensemble", file)[2]
    flags = ["--workdir", a, f"{a}@2", f"{b}@swa", "--member_weights", *fitted["weights"]]
    np.testing.assert_array_equal(run(image, tmp_path / "flags", *flags)[2], found)


def narrow(config):
    config.data.patch = (16, 16, 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir", "{a}@swaa"], "does not name a network at '@swaa'"),
        (["--workdir", "{a}@1@2"], "does not name a network at '@1'"),
        (["--workdir", "{a}", "{b}", "--member_weights", "1"], "2 members but 1 weights"),
        (["--workdir", "{a}@7"], "no checkpoint '7'"),
        (["--workdir", "{young}@swa"], "has not averaged any weights by step 1"),
        (["--workdir", "{young}@ema"], "keeps no average 'ema'"),
        (["--workdir", "{young}", "--rotations"], "16 × 32 voxels"),
        (["--workdir", "{a}", "--postprocess", "keep_largst"], "keep_largest"),
        (["--workdir", "{a}", "--postprocess", "none", "fill_holes"], "step 'none'"),
        (["--workdir", "{a}", "--threshold", "1"], "--threshold is 1.0"),
        (["--ensemble", "{file}"], "holds no ensemble"),
        (["--ensemble", "nowhere.json"], "nowhere.json does not exist"),
        (["--ensemble", "{file}", "--weights", "swa"], "leave --checkpoint, --weights"),
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


def test_held_out_by_nobody(runs, volumes_folder, tmp_path, capsys):
    """Folds hold out different volumes; a run on all volumes holds out none."""
    other = write_run(tmp_path / "f1", volumes_folder, change=lambda c: c.data.update(fold="1"))
    command = [runs[0], str(other), "--output", str(tmp_path / "e.json")]
    assert fit_ensemble.main(command) == 1
    assert "No volume was held out by all of the members" in capsys.readouterr().err
    everything = write_run(
        tmp_path / "none", volumes_folder, change=lambda c: c.data.update(fold="none")
    )
    assert fit_ensemble.main([runs[0], str(everything), *command[2:]]) == 1
    assert "holds out no volume (data.fold=none)" in capsys.readouterr().err
    chosen = ["--images", str(volumes_folder / "train_images")]
    chosen += ["--labels", str(volumes_folder / "train_labels")]
    assert fit_ensemble.main([*command, *chosen]) == 0
    written = json.loads((tmp_path / "e.json").read_text())
    assert len(written["fitted_to"]) == 6
    # Between them the folds were trained on all six.
    assert written["judged_on"]["volumes"] == "training"
    printed = capsys.readouterr().out
    assert "nats per voxel on training volumes left out of the fit: fitted" in printed
    assert "A member was trained on v0, v1, v2, v3, v4, v5: the fit prefers it" in printed


def test_names_of_members(tmp_path):
    assert members.parse("runs/a") == ("runs/a", "", "")
    assert members.parse("runs/a@latest@ema") == ("runs/a", "latest", "ema")
    assert members.parse("runs/a@ema@120") == ("runs/a", "120", "ema")
    folder = tmp_path / "user@swa"
    folder.mkdir()
    assert members.parse(str(folder)) == (str(folder), "", "")
    assert members.parse(f"{folder}@swa") == (str(folder), "", "swa")


def test_a_volume_that_memory_cannot_hold_leaves_the_others(tmp_path):
    found = [Volume(name, tmp_path / f"{name}.tif", None, name) for name in "ab"]
    for number, volume in enumerate(found):
        # Three slices: a TIFF that tifffile would take for colours.
        tifffile.imwrite(
            volume.image, np.full((3, 8, 8), number, np.uint8), photometric="minisblack"
        )

    def segment(image):
        if not image.any():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nlong list")
        return jnp.zeros(image.shape)

    results = dict(
        predict.predict_files(
            VOLUMES,
            segment,
            lambda logits, image: np.asarray(image, np.uint8),
            found,
            tmp_path / "out",
            settings={},
            probabilities=True,
        )
    )
    message = str(results["a"])
    assert "Out of memory" in message and "--windows 1" in message and "long list" not in message
    for written in ("b.tif", "probabilities/b.tif"):
        assert open_volume(tmp_path / "out" / written).shape == (3, 8, 8)
