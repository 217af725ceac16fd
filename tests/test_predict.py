"""What predict makes of one network and of several: members, orientations, post-processing."""

import functools
import json
import os
import shutil
import zipfile

import jax
import numpy as np
import pytest
import tifffile
import zarr
from scipy.special import expit

from jax_seg import fit_ensemble, models, predict
from jax_seg.data.preprocess import Preprocessing
from jax_seg.infer import postprocess
from jax_seg.infer.network import make_network
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.runs import checkpoints, members
from tests.conftest import tiny_config, write_volumes
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
    status = run_status(image, output, *flags)
    name = image.stem
    if not (output / f"{name}.tif").exists():
        return status, None, None, None
    return (
        status,
        tifffile.imread(output / f"{name}.tif"),
        tifffile.imread(output / "probabilities" / f"{name}.tif"),
        json.loads((output / f"{name}.json").read_text()),
    )


def run_status(image, output, *flags):
    """The exit status of the same command."""
    command = ["--input", str(image), "--output", str(output), "--probabilities", *map(str, flags)]
    return predict.main(command)


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
        (["--workdir", b], "checkpoint"),
        (["--workdir", f"{a}@2"], "checkpoint"),
        (["--workdir", a, b], "number of members"),
        (["--workdir", a, "--flips", "height"], "flips"),
        (["--workdir", a, "--rotations"], "rotations"),
        (["--workdir", a, "--overlap", "0.25"], "overlap"),
        (["--workdir", a, "--postprocess", "remove_small"], "post-processing"),
    ]:
        assert run(image, tmp_path, *flags)[0] == 1
        assert f"made with a different {what}: pass --overwrite" in capsys.readouterr().err
    assert run(image, tmp_path, "--workdir", a, "--postprocess", "none")[0] == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "v0.tif").stat().st_mtime_ns == written

    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert run(image, tmp_path, "--workdir", a)[0] == 1
    assert "made with a different image: " in capsys.readouterr().err

    run(image, tmp_path / "both", "--workdir", a, b)
    assert run(image, tmp_path / "both", "--workdir", a, b)[0] == 0
    assert run(image, tmp_path / "both", "--workdir", a, b, "--member_weights", 2, 1)[0] == 1
    assert "a different member weight: " in capsys.readouterr().err


def test_a_run_that_moved_made_the_same_predictions(runs, image, tmp_path, capsys):
    a, b = runs
    for number, names in enumerate(((a,), (a, b))):
        out = tmp_path / str(number)
        run(image, out, "--workdir", *names)
        moved = [shutil.copytree(w, tmp_path / f"{number}{n}") for n, w in enumerate(names)]
        assert run(image, out, "--workdir", *moved)[0] == 0
        assert "1 of 1 volumes are already finished; skipping them." in capsys.readouterr().out


def test_a_cut_mask_is_neither_finished_nor_submitted(runs, image, tmp_path, capsys):
    out, submission = tmp_path / "out", tmp_path / "all.zip"
    flags = ["--workdir", runs[0], "--submission", submission]
    assert run(image, out, *flags)[0] == 0
    whole = (out / "v0.tif").read_bytes()
    with zipfile.ZipFile(submission) as archive:
        assert archive.namelist() == ["v0.tif"] and archive.read("v0.tif") == whole
    submission.unlink()
    (out / "v0.tif").write_bytes(whole[:-9])
    assert run_status(image, out, *flags) == 1
    error = capsys.readouterr().err
    assert "v0.tif has changed since it was written: move it away" in error
    assert "all.zip is not written" in error and not submission.exists()
    assert run_status(image, out, *flags, "--overwrite") == 0
    assert (out / "v0.tif").read_bytes() == whole and submission.exists()
    assert run_status(image, out, *flags) == 0  # its own submission is replaced


@pytest.fixture
def data(tmp_path):
    """Volumes, a link to the folder of their images, and a run that was trained on them."""
    root = write_volumes(tmp_path / "data", count=4)
    (tmp_path / "link").symlink_to(root / "train_images")
    write_run(tmp_path / "run", root, change=lambda config: config.data.update(folds=2))
    return root


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_inputs_are_never_written_over(data, runs, tmp_path, capsys, overwrite):
    images, labels, run_ = data / "train_images", data / "train_labels", tmp_path / "run"
    own = tmp_path / "own"  # somebody's masks, and other files under the names of predictions
    own.mkdir()
    (own / "v0.tif").write_bytes((labels / "v0.tif").read_bytes())
    json_ = tmp_path / "json"
    json_.mkdir()
    (json_ / "v1.json").write_text('{"notes": "mine"}')
    probabilities = tmp_path / "maps"
    (probabilities / "probabilities").mkdir(parents=True)
    (probabilities / "probabilities" / "v1.tif").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given, output, message in [
        (images, images, "which holds inputs"),
        (images, tmp_path / "link", "which holds inputs"),
        (tmp_path / "link", images / "predictions", "which holds inputs"),
        (images / "v0.tif", tmp_path / "link", "which holds inputs"),  # known from the run
        (images, labels, "which holds inputs"),
        (images, labels / "new", "which holds inputs"),
        (images, run_ / "checkpoints", "which holds inputs"),
        (images, own, "own/v0.tif was not written by jax_seg.predict"),
        (images, json_, "json/v1.json was not written by jax_seg.predict"),
        (images, probabilities, "probabilities/v1.tif was not written by jax_seg.predict"),
    ]:
        flags = ["--workdir", str(run_), "--probabilities", *overwrite]
        status = predict.main(["--input", str(given), "--output", str(output), *flags])
        error = capsys.readouterr().err
        assert status == 1 and message in error and error.count("\n") == 1
    flags = ["--workdir", runs[0], "--input", str(images / "v0.tif"), *overwrite]  # of other data
    assert predict.main([*flags, "--output", str(tmp_path / "link")]) == 1
    assert "of the inputs: choose another folder" in capsys.readouterr().err
    for zip_ in (images / "v0.tif", own / "v0.tif", tmp_path):
        command = [*flags, "--output", str(tmp_path / "out"), "--submission", str(zip_)]
        assert predict.main(command) == 1
        assert str(zip_) in capsys.readouterr().err
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_an_output_that_cannot_be_written_is_found_before_the_network_runs(
    runs, volumes_folder, tmp_path, capsys
):
    (tmp_path / "file").touch()
    images = str(volumes_folder / "train_images")
    for output in (tmp_path / "file", tmp_path / "file" / "deep"):
        command = ["--workdir", runs[0], "--input", images, "--output", str(output)]
        assert predict.main(command) == 1
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and "file is not a folder" in printed.err
        assert printed.out == ""


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


def test_ctrl_c_ends_in_one_sentence(runs, volumes_folder, tmp_path, capsys, monkeypatch):
    load, seen = members.load, []

    def load_and_stop(member, **options):
        network = load(member, **options)

        def segment(volume):
            seen.append(volume)
            if len(seen) == 3:
                raise KeyboardInterrupt
            return network.segment(volume)

        return network._replace(segment=segment)

    monkeypatch.setattr(members, "load", load_and_stop)
    out, images = tmp_path / "out", str(volumes_folder / "train_images")
    command = ["--workdir", runs[0], "--input", images, "--output", str(out)]
    assert predict.main(command) == 130
    error = capsys.readouterr().err
    assert error.startswith("Interrupted: ") and error.count("\n") == 1
    left = sorted(path.name for path in out.iterdir())
    assert left == ["v0.json", "v0.tif", "v1.json", "v1.tif"]
    assert predict.main(command) == 0
    assert "2 of 6 volumes are already finished; skipping them." in capsys.readouterr().out


def test_two_inputs_and_an_input_without_a_name(runs, tmp_path, capsys, monkeypatch):
    for folder in "AB":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.tif").touch()
    both = [str(tmp_path / folder) for folder in "AB"]
    command = ["--workdir", runs[0], "--output", str(tmp_path / "out"), "--input"]
    assert predict.main([*command, *both]) == 1
    assert f"{both[0]} and {both[1]} have 1 id (x) more than once" in capsys.readouterr().err
    zarr.create_array(tmp_path / "v.zarr", data=np.ones((4, 8, 8), np.uint8))
    monkeypatch.chdir(tmp_path / "v.zarr")
    assert predict.main([*command, "."]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["v.json", "v.tif"]


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
    assert printed.count("replaces the step") == 1
    assert "--threshold 0.6 replaces the step threshold:value=0.4" in printed


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
    assert "v0.tif contains NaN" in capsys.readouterr().err


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
    assert "nats per voxel on volumes held out of the fit: fitted" in printed
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


def test_held_out_by_nobody(runs, volumes_folder, tmp_path, capsys):
    """Folds hold out different volumes; a run on all volumes holds out none."""
    other = write_run(tmp_path / "f1", volumes_folder, change=lambda c: c.data.update(fold="1"))
    command = [runs[0], str(other), "--output", str(tmp_path / "e.json")]
    assert fit_ensemble.main(command) == 1
    assert "No volume was held out by all members" in capsys.readouterr().err
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
    assert "nats per voxel on training volumes held out of the fit: fitted" in printed
    assert "A member was trained on v0, v1, v2, v3, v4, v5: the fit favours it" in printed


def test_names_of_members(tmp_path):
    assert members.parse("runs/a") == ("runs/a", "", "")
    assert members.parse("runs/a@latest@ema") == ("runs/a", "latest", "ema")
    assert members.parse("runs/a@ema@120") == ("runs/a", "120", "ema")
    folder = tmp_path / "user@swa"
    folder.mkdir()
    assert members.parse(str(folder)) == (str(folder), "", "")
    assert members.parse(f"{folder}@swa") == (str(folder), "", "swa")
