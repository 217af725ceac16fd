"""An export segments as the run does, in a process that knows nothing of this project."""

import importlib.util
import json
import runpy
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import Primitive

from jax_seg import export, models
from jax_seg.data.preprocess import PerVolume, Preprocessing
from jax_seg.infer import as_onnx, exported
from jax_seg.infer.network import make_network
from jax_seg.infer.sliding_window import _partition_of_unity, window_starts
from jax_seg.infer.standalone.segment import _axis
from jax_seg.ops.classes import ONE, probabilities_of
from jax_seg.runs import card, exporting, members, together
from jax_seg.system.files import read_json
from jax_seg.system.outputs import is_own
from tests.conftest import TIME_LIMIT
from tests.workdirs import write_run

OWN = {"name": "zscore", "low_percentile": 1.0, "high_percentile": 99.0, "region": "box"}
FIXED = Preprocessing(0.0, 255.0, 0.0, 1 / 255)
SCORES = {"step": 1, "volumes": "held out", "chose": ["checkpoint"], "dice": 0.71234, "iou": 0.5}
BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys(["jax_seg", "flax", "scipy.ndimage"]))  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def runs(volumes_folder, tmp_path_factory):
    """A run by fixed numbers, and one that normalises each volume by its own."""
    folder = tmp_path_factory.mktemp("exported")
    write_run(folder / "fixed", volumes_folder)
    (folder / "fixed" / "scores.json").write_text(json.dumps({"raw": SCORES}))
    write_run(folder / "own", volumes_folder, rule=OWN)
    return folder


@pytest.fixture(scope="module")
def out(runs):
    """An export of both, whose probabilities are averaged."""
    assert export.main([str(runs / "fixed@swa"), str(runs / "own"), str(runs / "out")]) == 0
    return runs / "out"


def test_it_segments_a_volume_as_predict_does(runs, out, tmp_path):
    """With zeros around the scan, and shorter than the window along one axis."""
    volume = np.random.default_rng(0).integers(1, 256, (23, 17, 13)).astype(np.uint16)
    volume[:4] = 0
    np.save(tmp_path / "v.npy", volume)
    command = [sys.executable, "-c", BLOCKED, str(out / "segment.py"), "v.npy", "p.npy"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=TIME_LIMIT)
    found = np.load(tmp_path / "p.npy")
    segment, *_ = together.load([str(runs / "fixed@swa"), str(runs / "own")])
    expected = np.asarray(jax.nn.sigmoid(segment(volume)))
    assert all(is_own(path, "export") for path in out.iterdir() if path.is_file())
    assert found.dtype == np.float32 and expected.std() > 0.05  # it is no constant
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("classes", "channels", "rule"),
    [
        (("dark=1", "bright=3"), 1, {}),  # softmax
        (("any=1,3", "bright=3"), 2, {"rule": OWN}),  # each by itself, of a volume's own numbers
        ((), 2, {"rule": {name: [v, v / 2] for name, v in FIXED._asdict().items()}}),
    ],
)
def test_several_classes_and_channels(volumes_folder, tmp_path, classes, channels, rule):
    def change(config):
        config.data.update(classes=classes)
        config.model.update(in_channels=channels, out_channels=len(classes) or 1)

    run, out = write_run(tmp_path / "run", volumes_folder, change=change, **rule), tmp_path / "out"
    assert export.main([str(run), f"{run}@swa", str(out)]) == 0
    shape = (18, 12, 20, channels)
    volume = np.random.default_rng(0).integers(1, 256, shape).astype(np.uint8)
    volume[:3], volume[:, :5, :, -1] = 0, 0  # the second without input in one channel alone
    volume = volume if channels > 1 else volume[..., 0]
    segment, networks, _ = together.load([str(run), f"{run}@swa"])
    expected = np.asarray(probabilities_of(segment(volume), together.classes_of(networks)))
    found = runpy.run_path(str(out / "segment.py"))["predict"](volume)
    assert found.shape == expected.shape == (18, 12, 20, *([2] if classes else []))
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    text = (out / "card.md").read_text()
    assert ("bright (label 3)" in text) == bool(classes)
    assert ("any (label 1 or 3)" in text) == ("any=1,3" in classes)
    most = "post-processing, not in the program | the most probable class |"
    assert (most in text) == ("dark=1" in classes)
    assert (f"a volume [D, H, W, {channels}]" in text) == (channels > 1)
    with pytest.raises(ValueError, match=r"give (three axes|\[D, H, W, 2\])"):
        runpy.run_path(str(out / "segment.py"))["predict"](np.zeros((20, 20), np.uint8))


def test_the_card_says_which_scores_are_means_over_classes(volumes_folder, tmp_path):
    def change(config):
        config.data.classes, config.model.out_channels = ("a=1", "b=3"), 2

    run = write_run(tmp_path / "run", volumes_folder, change=change)
    of_classes = {"classes": {"a": {"dice": 0.75}, "b": {"dice": 0.67}}}
    (run / "scores.json").write_text(json.dumps({"raw": SCORES | of_classes}))
    text = card.text([exporting.read(str(run))], "")
    assert "of the most probable class and without post-processing" in text
    assert "| dice, mean over classes | 0.7123 |" in text and "| dice of b | 0.6700 |" in text


def test_the_card_of_one_named_class(volumes_folder, tmp_path):
    run = write_run(
        tmp_path / "run", volumes_folder, change=lambda c: c.data.update(classes=("sheet=1,3",))
    )
    assert "trained on label 1 or 3." in card.text([exporting.read(str(run))], "")


def test_networks_of_other_classes_are_not_averaged(runs, volumes_folder, tmp_path, capsys):
    def change(config):
        config.data.classes, config.model.out_channels = ("a=1", "b=3"), 2

    run = write_run(tmp_path / "run", volumes_folder, change=change)
    assert export.main([str(runs / "fixed"), str(run), str(tmp_path / "out")]) == 1
    assert "The members differ in their classes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_program_is_the_network_for_any_number_of_windows(runs, out, dtype):
    source = exporting.read(str(runs / "fixed@swa"))
    program = jax.export.deserialize(bytearray((out / "network_0.jax").read_bytes()))
    assert program.platforms == ("cpu", "cuda")
    weights = dict(np.load(out / "weights_0.npz"))
    windows = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 16, 1)).astype(dtype)
    expected = source.network(source.variables, windows)
    for count in (1, 3):
        inputs = windows[:count].astype(np.float32)
        probabilities, logits = jax.jit(program.call)(weights, inputs)
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(probabilities, jax.nn.sigmoid(expected[:count]), atol=1e-6)


def test_zeros_stay_zero_in_a_program_where_the_rule_says_so(runs):
    """(200 - 100) · 0.01 is 1, and 0 is not -1."""
    rule = PerVolume("zscore", 0.0, 100.0, "nonzero")
    network = make_network(_Same(), rule)
    program = exported.program(network, rule, {"params": {"w": np.ones(1)}}, (1, 1, 2))
    called = jax.export.deserialize(bytearray(program)).call
    windows = np.array([0, 200], np.float32).reshape(1, 1, 1, 2, 1)
    own = np.array([0, 255, 100, 0.01], np.float32)
    _, logits = called({"params/w": np.ones(1, np.float32)}, windows, own)
    np.testing.assert_allclose(np.ravel(logits), [0, 1], atol=1e-7)


class _Same:
    """A network whose logits are its input."""

    def apply(self, _variables, image):
        return image


@pytest.mark.parametrize("rematerialise", [False, True])
def test_onnx_gets_the_program_without_choices_by_platform(rematerialise):
    model = models.build("unet", filters=2, poolings=1, rematerialise=rematerialise)
    network = make_network(model, FIXED)
    window = jax.ShapeDtypeStruct((1, 8, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), window)
    weights = jax.tree.map(lambda one: np.ones(one.shape, one.dtype), shapes)
    traced = jax.make_jaxpr(lambda x: network(weights, x))(window)
    assert "platform_index" in str(traced)
    plain = jax.make_jaxpr(lambda x: as_onnx._evaluate(traced, [x]))(window)
    names = Counter(equation.primitive.name for equation in plain.eqns)
    assert not names.keys() & {
        *("jit", "remat2", "cond", "platform_index", "conv_general_dilated", "scan")
    }
    assert names[as_onnx.CONVOLUTION.name] == 2 * 3  # of two levels down and one up
    assert plain.out_avals[0].shape == (1, 8, 8, 8, 1)


def test_onnx_without_its_packages_is_refused(runs, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert export.main([str(runs / "fixed"), str(runs / "o"), "--onnx"]) == 1
    assert "pip install 'jax-seg[onnx]'" in capsys.readouterr().err
    assert not (runs / "o").exists()


def test_onnx_of_a_network_in_bfloat16_computes_in_float32(volumes_folder, tmp_path):
    import onnxruntime

    run = write_run(
        tmp_path / "run", volumes_folder, change=lambda c: c.model.update(dtype="bfloat16")
    )
    assert export.main([str(run), str(tmp_path / "out"), "--onnx"]) == 0
    source = exporting.read(str(run))
    window = np.random.default_rng(2).uniform(0, 255, (1, 16, 16, 16, 1)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "network_0.onnx")
    (found,) = session.run(["logits"], {"window": window})
    own, rounded = (one(source.variables, window) for one in (source.in_float32, source.network))
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-4)
    assert np.abs(found - rounded).max() > 1e-3


def test_onnx_that_cannot_carry_a_network_is_refused(tmp_path):
    window, unheard_of = {"window": np.ones((1, 2), np.float32)}, Primitive("unheard_of")
    unheard_of.def_abstract_eval(lambda x: x)
    with pytest.raises(ValueError, match=r"jax2onnx cannot carry this network \(.*'unheard_of'\)"):
        as_onnx.write(tmp_path / "n", lambda x: (unheard_of.bind(x),), window, ("p",), "")
    assert list(tmp_path.iterdir()) == []


def test_onnx_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    convert = as_onnx.convert
    monkeypatch.setattr(as_onnx, "convert", lambda _, *rest: convert(lambda x: (x + 1,), *rest))
    window = {"window": np.ones((1, 2), np.float32)}
    with pytest.raises(ValueError, match=r"differ from the network's by 1, more than 0\.0001"):
        as_onnx.write(tmp_path / "n", lambda x: (x * 1,), window, ("p",), "")
    assert list(tmp_path.iterdir()) == []


def test_an_onnx_file_is_the_network(runs, capsys):
    import onnxruntime

    out = runs / "onnx"
    assert export.main([str(runs / "fixed"), str(runs / "own"), str(out), "--onnx"]) == 0, (
        capsys.readouterr().err
    )
    assert all(is_own(path, "export") for path in out.iterdir())
    windows = np.random.default_rng(2).integers(0, 256, (1, 16, 16, 16, 1)).astype(np.float32)
    own = np.array([10, 240, 120, 0.02], np.float32)
    for number, (name, numbers) in enumerate([("fixed", None), ("own", own)]):
        source = exporting.read(str(runs / name))
        expected = source.network(source.variables, windows, numbers)
        session = onnxruntime.InferenceSession(out / f"network_{number}.onnx")
        inputs = {"window": windows} | ({} if numbers is None else {"own": numbers})
        probability, logits = session.run(["probability", "logits"], inputs)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(probability, jax.nn.sigmoid(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        {"name": "unet"},
        {"name": "residual_unet", "downsample": "stride", "affine": True, "features": (2, 4)},
    ],
)
def test_an_onnx_file_of_classes_and_channels_is_the_network(volumes_folder, tmp_path, network):
    import onnxruntime

    def change(config):
        config.data.classes = ("dark=1", "bright=3")
        config.model.update(in_channels=2, out_channels=2, **network)

    run = write_run(tmp_path / "run", volumes_folder, change=change, rule=OWN)
    out = tmp_path / "out"
    assert export.main([str(run), str(out), "--onnx"]) == 0
    window = np.random.default_rng(2).uniform(0, 255, (1, 16, 16, 16, 2)).astype(np.float32)
    own = np.stack([[10, 240, 120, 0.02], [20, 200, 90, 0.03]], -1)[None].astype(np.float32)
    source = exporting.read(str(run))
    expected = probabilities_of(source.network(source.variables, window, own), source.classes)
    session = onnxruntime.InferenceSession(out / "network_0.onnx")
    (found,) = session.run(["probability"], {"window": window, "own": own})
    assert found.shape == (1, 16, 16, 16, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@given(
    length=st.integers(1, 60),
    window=st.integers(1, 24),
    overlap=st.sampled_from([0, 0.25, 0.5, 0.9]),
)
def test_its_windows_and_weights_are_those_of_prediction(length, window, overlap):
    length += window - 1
    starts = tuple(window_starts(length, window, overlap))
    found = _axis(length, window, overlap)
    assert tuple(start for start, _ in found) == starts
    weights = np.stack([weights for _, weights in found])
    np.testing.assert_allclose(weights, _partition_of_unity(length, window, starts), atol=1e-6)


def test_the_card_says_what_the_scores_are_worth(runs, out, volumes_folder):
    source = exporting.read(str(runs / "fixed"))
    text = card.text([source], "written by jax_seg.export")
    count = sum(leaf.size for leaf in jax.tree.leaves(source.variables["params"]))
    for part in (
        f"unet, {count:,} parameters, float32",
        f"Data: {volumes_folder}, fold 0 of 3 held out",
        "Trained on: 4 volumes: v0, v1, v2, v3",
        "Held out: 2 volumes: v4, v5",
        "clipped to 0 to 255, minus 0, times 0.00392157",
        "pooled over whole held-out volumes, which chose the checkpoint",
        "| dice | 0.7123 |",
        '`judged_on`: {"volumes": "held out", "chose": ["checkpoint"]}',
        "Apache-2.0",
    ):
        assert part in text, part
    both = (out / "card.md").read_text()
    assert both.count("these weights were not scored") == 2 and "0.7123" not in both
    assert "percentiles 1 to 99 of its voxels (box)" in both


def test_the_card_names_the_spacing_that_a_run_records(runs):
    source = exporting.read(str(runs / "fixed"))
    unknown = card.text([source], "")
    assert "| voxel spacing (z, y, x) | not recorded |" in unknown
    known = card.text([source._replace(beside=source.beside | {"spacing": [4.0, 1.0, 0.5]})], "")
    assert "| voxel spacing (z, y, x) | 4 × 1 × 0.5; resample volumes of another" in known


def test_a_configuration_has_one_digest_whatever_the_order():
    one = card.configuration_digest({"a": 1, "b": {"c": 2, "d": 3}})
    assert one == card.configuration_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert one != card.configuration_digest({"a": 1, "b": {"c": 2, "d": 4}})


def test_an_earlier_export_is_replaced_whole_or_not_at_all(runs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    run, command = str(runs / "fixed"), [str(runs / "fixed"), str(folder)]
    assert export.main([run, str(runs / "own"), str(folder)]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "network_1.jax" in before and "measure_volume.py" in before

    def full(*_):
        raise OSError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(card, "text", full)
        assert export.main(command) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]

    assert export.main(command) == 0
    assert {path.name for path in folder.iterdir()} == {
        *("card.md", "load.py", "model.json", "network_0.jax", "segment.py", "weights_0.npz")
    }
    assert list(tmp_path.iterdir()) == [folder]
    assert read_json(folder / "model.json")["members"][0]["weight"] == 1

    (folder / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert export.main(command) == 1
    assert "notes.txt was not written by jax_seg.export" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == "mine"


def for_images(config):
    config.data.name = "images"


def of_nnunet(config):
    with config.unlocked():
        config.validate.convention = members.NNUNET


@pytest.mark.parametrize(
    ("change", "message"),
    [(for_images, "is a network for images"), (of_nnunet, "was imported from nnU-Net")],
)
def test_what_an_export_does_not_carry_is_refused(
    volumes_folder, tmp_path, capsys, change, message
):
    run = write_run(tmp_path / "run", volumes_folder, change=change)
    assert export.main([str(run), str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_place_among_the_inputs_is_refused(runs, volumes_folder, capsys):
    run = runs / "fixed"
    for place in (run, run / "checkpoints" / "out", volumes_folder / "train_images" / "out"):
        assert export.main([str(run), str(place)]) == 1
        told = capsys.readouterr().err
        assert "OUT" in told and told.startswith("Error: ") and told.count("\n") == 1
    assert export.main([str(run / "absent"), str(runs / "x")]) == 1
    assert export.main([str(run), "s3://bucket/out"]) == 1
    assert "only files of this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        ([], 0.3),
        (["remove_small:voxels=9"], 0.3),
        (["threshold:value=0.35", "remove_small:voxels=9"], 0.35),
        (["hysteresis:low=0.3,high=0.6"], None),
    ],
)
def test_the_threshold_is_that_with_which_predict_would_use_the_network(steps, value, tmp_path):
    fields = {"validate.threshold": 0.3, "postprocess.steps": tuple(steps)}
    loaded = SimpleNamespace(fields=fields, facts={"workdir": str(tmp_path)})
    assert card.threshold([SimpleNamespace(loaded=loaded, classes=ONE)]) == value
