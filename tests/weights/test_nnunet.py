"""Networks of nnU-Net predict what PyTorch and nnU-Net itself computed."""

import json
import shutil

import jax
import numpy as np
import pytest
import tifffile

from jax_seg import convert, models, predict
from jax_seg.data import preprocess
from jax_seg.data.readers import read_volume
from jax_seg.infer import as_nnunet
from jax_seg.infer.inspection import spacing_as_nnunet
from jax_seg.ops.classes import masks_of, painted, probabilities_of
from jax_seg.runs import checkpoints, together
from jax_seg.weights import nnunet
from jax_seg.weights.nnunet_plans import NETWORKS
from tests.conftest import ROOT
from tests.nnunet_folders import FOLDERS, edited, fold_of
from tests.torch_files import state_dict, torch_save

SHARED = ROOT.parent / "shared" / "golden" / "nnunet"


@pytest.mark.parametrize("name", ["flat", "turned"])
def test_logits_are_those_of_pytorch(name):
    """A 2-D network as slices of a volume, and a residual one whose axes nnU-Net had turned."""
    fold, expected = fold_of(FOLDERS / name), np.load(FOLDERS / name / "logits.npz")
    model = models.build(NETWORKS[fold.plan.network], **fold.plan.fields)
    x = expected["x"][None, ..., None]
    if name == "flat":
        assert fold.plan.patch == (1, 16, 24) and model.kernels[0] == (1, 3, 3)
        assert fold.mirrored == (1, 2) and fold.plan.spacing == (None, 0.5, 0.5)
        x = np.moveaxis(x, 1, 0)  # slices are windows of their own
        logits, coarser = (np.moveaxis(y, 1, 0) for y in model.apply({"params": fold.params}, x))
        assert coarser.shape == (1, 2, 8, 12, 1)
    else:
        assert fold.plan.patch == (16, 24, 4) and fold.plan.spacing == (1.0, 1.0, 3.0)
        assert model.kernels[0] == (3, 3, 1) and fold.mirrored == (0, 1, 2)
        logits = model.apply({"params": fold.params}, x)
    np.testing.assert_allclose(np.asarray(logits)[0, ..., 0], expected["logits"], atol=2e-5)


@pytest.fixture(scope="module")
def membrane(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("nnunet") / "membrane"
    print(convert.convert_folder(FOLDERS / "membrane", workdir))
    return workdir


def assert_predicted(segment, volume, expected, spacing=None):
    """Probabilities to 1e-3 everywhere and 1e-4 in the mean, and the mask that follows."""
    expected = expected.astype(np.float32)
    probability = np.asarray(jax.nn.sigmoid(segment(volume, spacing=spacing)))
    error = np.abs(probability - expected)
    assert error.max() < 1e-3 and error.mean() < 1e-4
    sure = np.abs(expected - 0.5) > 1e-3
    assert ((probability > 0.5) == (expected > 0.5))[sure].all()


def test_prediction_is_that_of_nnunet(membrane):
    """Of a volume, of one of another spacing, and of a masked one smaller than the window."""
    segment, _, _ = together.load([str(membrane)])
    volume = tifffile.imread(FOLDERS / "membrane" / "crop_0000.tif")
    expected = np.load(FOLDERS / "membrane" / "expected.npz")["probability"]
    assert_predicted(segment, volume, expected, spacing=(45.0, 4.6, 4.6))
    golden = np.load(FOLDERS / "predictions.npz")
    for name, spacing in (("resampled", (36.0, 6.9, 5.06)), ("masked", None)):
        assert_predicted(segment, golden[f"{name}_volume"], golden[f"{name}_probability"], spacing)


def test_blocks_are_those_of_nnunet(membrane, tmp_path, capsys):
    """Bit for bit: in each voxel the same windows are added, in the same order."""
    image = FOLDERS / "membrane" / "crop_0000.tif"
    command = ["--workdir", str(membrane), "--input", str(image), "--flips", "width"]
    assert predict.main([*command, "--output", str(tmp_path / "whole"), "--probabilities"]) == 0
    blocks = ["--block", "64", "--chunk", "32", "--dtype", "float16"]
    assert predict.main([*command, "--output", str(tmp_path / "p.zarr"), *blocks]) == 0
    expected = tifffile.imread(tmp_path / "whole" / "probabilities" / "crop.tif")
    assert expected.std() > 0.1
    np.testing.assert_array_equal(read_volume(tmp_path / "p.zarr"), expected)
    command[2:2] = [str(membrane)]  # two folds
    assert predict.main([*command, "--output", str(tmp_path / "folds")]) == 0
    assert (tmp_path / "folds" / "crop.tif").exists()
    del command[2]
    other = tmp_path / "other_0000.tif"
    shutil.copy(image, other)
    (tmp_path / "other.json").write_text('{"spacing": [90, 4.6, 4.6]}')
    command[3] = str(other)
    assert predict.main([*command, "--output", str(tmp_path / "o.zarr"), *blocks]) == 1
    assert "blocks are not resampled" in capsys.readouterr().err


def test_a_prediction_at_another_spacing_says_so(membrane, tmp_path, capsys):
    """Of half as many slices the network sees twice as many: 3 windows of 16 with 8 in common."""
    volume = np.random.default_rng(0).integers(1, 200, (16, 64, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "case.tif", volume)
    (tmp_path / "case.json").write_text('{"spacing": [90.0, 4.6, 4.6]}')
    command = ["--workdir", str(membrane), "--input", str(tmp_path / "case.tif")]
    assert predict.main([*command, "--output", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "case.json").read_text())
    found = facts["resampled_from"], facts["resampled_to"], facts["windows"], facts["shape"]
    assert found == ([90, 4.6, 4.6], [[45, 4.6, 4.6]], 3, [16, 64, 64])
    assert "is resampled to 45 × 4.6 × 4.6" in capsys.readouterr().err


def test_a_volume_whose_shape_does_not_change_is_not_resampled(membrane, tmp_path, monkeypatch):
    """Of 0.6 % another spacing, 64 rows stay 64, and 96 become 97."""
    calls, resample = [], as_nnunet.resample
    monkeypatch.setattr(
        as_nnunet, "resample", lambda *rest: calls.append(rest[1]) or resample(*rest)
    )
    command = ["--workdir", str(membrane), "--output", str(tmp_path / "out"), "--input"]
    for rows, after in ((64, []), (96, [(16, 97, 64)])):
        image = tmp_path / f"{rows}.tif"
        tifffile.imwrite(image, np.full((16, rows, 64), 9, np.uint8), photometric="minisblack")
        image.with_suffix(".json").write_text('{"spacing": [45, 4.6276, 4.6]}')
        assert predict.main([*command, str(image)]) == 0
        assert calls == after
        facts = json.loads((tmp_path / "out" / f"{rows}.json").read_text())
        assert ("resampled_from" in facts) == bool(after)


@pytest.mark.parametrize(
    ("name", "volume", "folder", "spacing", "flips"),
    [
        # Slices, and the numbers of CTNormalization.
        ("flat", "flat", "flat", None, ("height", "width")),
        ("flat_resampled", "flat", "flat", (2.0, 0.65, 0.4), ()),  # in the plane alone
        ("turned", "turned", "turned", (1.5, 1.0, 1.4), ()),  # turned axes, and another spacing
        # Statistics of the voxels within the mask.
        ("within_mask", "within_mask", "membrane", None, ()),
    ],
)
def test_prediction_of_other_plans_is_that_of_nnunet(
    tmp_path, name, volume, folder, spacing, flips
):
    masked = {"use_mask_for_norm": [True]} if name == "within_mask" else {}
    convert.convert_folder(edited(folder, tmp_path, configuration=masked), tmp_path / "run")
    segment, _, _ = together.load([str(tmp_path / "run")], flips=flips)
    golden = np.load(FOLDERS / "predictions.npz")
    assert_predicted(segment, golden[f"{volume}_volume"], golden[f"{name}_probability"], spacing)


@pytest.mark.parametrize(
    ("folder", "case", "mirrored"),
    [("hippocampus_residual", "hippo", True), ("membrane_plain", "crop", False)],
)
def test_nnunets_own_folders(tmp_path, folder, case, mirrored):
    """As they are: probabilities, also of mirrored versions, and the mask that nnU-Net wrote."""
    folder = SHARED / folder
    if not folder.is_dir():
        pytest.skip("../shared, which holds nnU-Net's own predictions, is not there")
    convert.convert_folder(folder, tmp_path / "run")
    image = folder / "input" / f"{case}_0000.tif"
    for name, flips in ((case, ()), (f"{case}_mirrored", ("depth", "height", "width"))):
        if not flips or mirrored:
            expected = np.load(folder / "expected" / f"{name}.npz")["probabilities"][1]
            segment, _, _ = together.load([str(tmp_path / "run")], flips=flips)
            spacing = spacing_as_nnunet(image)
            assert_predicted(segment, tifffile.imread(image), expected, spacing)
    command = ["--workdir", str(tmp_path / "run"), "--input", str(image)]
    assert predict.main([*command, "--output", str(tmp_path / "out")]) == 0
    mask = tifffile.imread(tmp_path / "out" / f"{case}.tif")  # without the channel, as nnU-Net
    expected = tifffile.imread(folder / "expected" / f"{case}.tif")
    probability = np.load(folder / "expected" / f"{case}.npz")["probabilities"][1]
    sure = np.abs(probability - 0.5) > 1e-3
    np.testing.assert_array_equal(mask[sure], expected[sure])


def test_what_is_stored(membrane):
    _, stored, step = checkpoints.read_variables(membrane)
    rule = preprocess.stored(stored["preprocessing"])
    assert rule == preprocess.PerVolume("zscore", 0, 100, "box") and step == 0
    assert stored["source"]["spacing"] == [45.0, 4.6, 4.6]
    assert stored["source"]["trainer"] == "nnUNetTrainerMinutes"
    assert stored["config"]["data"]["patch"] == [16, 64, 64]


def test_what_lies_around_the_input_is_left_out_under_any_normalisation(tmp_path):
    """As nnU-Net does: of a network of CTNormalization, in memory and block by block."""
    convert.convert_folder(FOLDERS / "flat", tmp_path / "run")
    segment, _, _ = together.load([str(tmp_path / "run")])
    golden = np.load(FOLDERS / "flat" / "masked.npz")
    volume = golden["volume"]
    assert_predicted(segment, volume, golden["probability"])
    np.testing.assert_array_equal(golden["probability"] > 0, volume > 0)
    tifffile.imwrite(tmp_path / "v.tif", volume)
    command = ["--workdir", str(tmp_path / "run"), "--input", str(tmp_path / "v.tif")]
    assert predict.main([*command, "--output", str(tmp_path / "masks")]) == 0
    blocks = ["--block", "32", "--chunk", "32"]
    assert predict.main([*command, "--output", str(tmp_path / "v.zarr"), *blocks]) == 0
    expected = tifffile.imread(tmp_path / "masks" / "v.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.zarr"), expected)


def test_a_spacing_in_another_unit_is_refused(membrane, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "case.tif", np.ones((16, 64, 64), np.uint8))
    (tmp_path / "case.json").write_text('{"spacing": [0.045, 0.0046, 0.0046]}')
    command = ["--workdir", str(membrane), "--input", str(tmp_path / "case.tif")]
    assert predict.main([*command, "--output", str(tmp_path / "out")]) == 1
    assert "more than 20 times as much or as little" in capsys.readouterr().err


def test_a_folder_of_folds_is_all_of_them(membrane, tmp_path):
    for fold in (0, 1):
        shutil.copytree(membrane, tmp_path / "run" / f"fold_{fold}")
    _, networks, facts = together.load([str(tmp_path / "run")])
    assert len(networks) == 2 and len(facts["members"]) == 2
    assert networks[1].facts["workdir"] == str(tmp_path / "run" / "fold_1")


def test_folds_are_averaged_as_nnunet_averages_them(tmp_path):
    """Their logits are; the kernels of the second are those of the first, turned."""
    folder = edited("membrane", tmp_path)
    (folder / "fold_all").rename(folder / "fold_0")
    arrays, beside = nnunet.read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    turned = {n: np.flip(a, (2, 3, 4)).copy() if a.ndim == 5 else a for n, a in arrays.items()}
    (folder / "fold_1").mkdir()
    content = {"network_weights": state_dict(turned), "init_args": beside["init_args"]}
    torch_save(folder / "fold_1" / "checkpoint_final.pth", content)
    convert.convert_folder(folder, tmp_path / "run")
    segment, networks, _ = together.load([str(tmp_path / "run")])
    golden = np.load(FOLDERS / "predictions.npz")
    one, both = (golden[f"{n}_probability"].astype(np.float32) for n in ("masked", "two_folds"))
    assert len(networks) == 2
    assert_predicted(segment, golden["masked_volume"], both)
    second, *_ = together.load([str(tmp_path / "run" / "fold_1")])
    mean = (one + np.asarray(jax.nn.sigmoid(second(golden["masked_volume"])))) / 2
    assert np.abs(both - mean).max() > 0.01  # the mean of probabilities is another


def with_another_channel(folder, tmp_path):
    """A copy of a model folder whose network takes a channel before its own, of weight zero."""
    plans = json.loads((FOLDERS / folder / "plans.json").read_text())
    ((name, stored),) = plans["configurations"].items()
    own = plans.get("foreground_intensity_properties_per_channel", {}).get("0", {})
    other = dict.fromkeys(("percentile_00_5", "mean"), 3.0) | {"percentile_99_5": 9.0, "std": 2.0}
    schemes = ("normalization_schemes", "use_mask_for_norm")
    copy = edited(
        folder,
        tmp_path,
        plans={"foreground_intensity_properties_per_channel": {"0": other, "1": own}},
        dataset={"channel_names": {"0": "other", "1": "own"}},
        configuration={field: stored[field] * 2 for field in schemes},
    )
    ((_, path),) = nnunet.find_folds(copy).items()
    arrays, _ = nnunet.read_checkpoint(path)
    first = [
        n for n, array in arrays.items() if "enc" in n and array.ndim > 2 and array.shape[1] == 1
    ]
    assert first
    for one in first:
        arrays[one] = np.concatenate([np.zeros_like(arrays[one]), arrays[one]], 1)
    torch_save(path, {"network_weights": state_dict(arrays), "init_args": {"configuration": name}})
    return copy


@pytest.mark.parametrize(
    ("name", "folder", "spacing", "flips"),
    [
        ("flat", "flat", None, ("height", "width")),
        ("resampled", "membrane", (36.0, 6.9, 5.06), ()),
        ("masked", "membrane", None, ()),
    ],
)
def test_a_network_of_two_channels(tmp_path, name, folder, spacing, flips):
    """It ignores one channel, and predicts from the other what nnU-Net did from that alone."""
    convert.convert_folder(with_another_channel(folder, tmp_path), tmp_path / "run")
    segment, (network,), _ = together.load([str(tmp_path / "run")], flips=flips)
    assert network.fields["model.in_channels"] == 2
    golden = np.load(FOLDERS / "predictions.npz")
    own = golden[f"{name}_volume"]
    other = np.where(own == 0, 0, 1 + own[::-1] % 50).astype(own.dtype)
    expected = golden[f"{name}_probability"]
    assert_predicted(segment, np.stack([other, own], -1), expected, spacing)
    with pytest.raises(ValueError, match=r"the image has 1 channel, but the network of .* takes 2"):
        segment(own, spacing=spacing)


def of_three_logits(folder, tmp_path, labels, heads, **dataset):
    """A copy of a model folder whose last layers are `heads` of (background, foreground) logits."""
    copy = edited(folder, tmp_path, dataset={"labels": labels, **dataset})
    (path,) = copy.glob("fold_*/checkpoint_final.pth")
    arrays, beside = nnunet.read_checkpoint(path)
    for name in [name for name in arrays if ".seg_layers." in name]:
        kernel = np.asarray(heads[0], arrays[name].dtype)
        arrays[name] = np.tensordot(kernel, arrays[name], 1)
        if name.endswith("bias"):
            arrays[name] = arrays[name] + np.asarray(heads[1], arrays[name].dtype)
    torch_save(path, {"network_weights": state_dict(arrays), "init_args": beside["init_args"]})
    return copy


def test_a_network_of_several_classes(tmp_path):
    """A class beside the foreground of nnU-Net's own prediction, with half of its odds."""
    labels = {"background": 0, "late": 2, "early": 1}
    heads = [[1, 0], [0, 1], [0, 1]], [0.0, 0.0, -np.log(2)]
    folder = of_three_logits("membrane", tmp_path, labels, heads)
    said = convert.convert_folder(folder, tmp_path / "run")
    assert "find early and late" in said
    segment, (network,), _ = together.load([str(tmp_path / "run")])
    assert network.fields["data.classes"] == ("early=1", "late=2")
    golden = np.load(FOLDERS / "predictions.npz")
    p = golden["masked_probability"].astype(np.float64)
    odds = p / np.maximum(1 - p, 1e-6)
    expected = np.stack([odds, odds / 2], -1) / (1 + 1.5 * odds)[..., None]
    logits = segment(golden["masked_volume"])
    classes = together.classes_of([network])
    found = np.asarray(probabilities_of(logits, classes))
    error = np.abs(found - expected)
    assert error.max() < 2e-3 and error.mean() < 1e-4
    assert found[..., 0].max() > 0.5


def test_a_network_of_regions(tmp_path):
    """Each has a logit of its own: the whole is nnU-Net's foreground, the core is rarer."""
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    heads = [[-1, 1], [-1, 1]], [0.0, -1.0]
    folder = of_three_logits("membrane", tmp_path, labels, heads, regions_class_order=[1, 2])
    convert.convert_folder(folder, tmp_path / "run")
    segment, (network,), _ = together.load([str(tmp_path / "run")])
    assert together.classes_of([network]).values == (1, 2)
    golden = np.load(FOLDERS / "predictions.npz")
    logits = np.asarray(segment(golden["masked_volume"]))
    p = golden["masked_probability"].astype(np.float64)
    error = np.abs(1 / (1 + np.exp(-logits[..., 0])) - p)
    assert error.max() < 2e-3 and error.mean() < 1e-4
    inside = logits[..., 0] != -20  # where there is no input, both have this logit
    np.testing.assert_allclose(logits[inside, 1], logits[inside, 0] - 1, atol=0.1)
    output = tmp_path / "masks"
    tifffile.imwrite(tmp_path / "volume.tif", golden["masked_volume"])
    command = ["--workdir", str(tmp_path / "run"), "--input", str(tmp_path / "volume.tif")]
    assert predict.main([*command, "--output", str(output)]) == 0
    assert set(np.unique(tifffile.imread(output / "volume.tif"))) == {0, 1, 2}


def test_a_trained_network_of_three_classes(tmp_path):
    """What nnU-Net 2.8.1 trained and predicted: softmax of a background and three classes."""
    folder = FOLDERS / "classes"
    said = convert.convert_folder(folder, tmp_path / "run")
    assert "bright" in said and "dark" in said, said
    expected = np.load(folder / "expected.npz")
    segment, (network,), _ = together.load([str(tmp_path / "run")])
    classes = together.classes_of([network])
    assert classes.as_json() == {"bright": 1, "dark": 2, "brightest": 3}
    logits = segment(expected["volume"], spacing=(2.0, 1.0, 1.0))
    found = np.asarray(probabilities_of(logits, classes))
    error = np.abs(found - np.moveaxis(expected["probability"].astype(np.float32), 0, -1))
    # nnU-Net adds logits in half precision: where a sum lies amid two numbers, it may round away.
    assert (error > 1e-3).sum() <= 3 and error.max() < 3e-3 and error.mean() < 1e-4
    mirrored, *_ = together.load([str(tmp_path / "run")], flips=("depth", "height", "width"))
    logits = mirrored(expected["volume"], spacing=(2.0, 1.0, 1.0))
    mask = painted(np.asarray(masks_of(logits, classes, 0.5)), classes.values)
    assert len(np.unique(mask)) == 4
    top = np.sort(np.asarray(logits), -1)[..., -1]
    sure = np.abs(top) > 0.01  # away from where a class and the background weigh alike
    assert (mask == expected["mirrored"])[sure].mean() > 0.9995
