"""Checks of augmentation and preprocessing, on samples made by hand."""

import types

import jax
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from jax_seg.data.augment import augment
from jax_seg.data.preprocess import Preprocessing
from jax_seg.diagnosis import augmentation, preprocessing
from jax_seg.diagnosis.evidence import Evidence
from tests.conftest import tiny_config, write_volumes

SIZE = 20
PREPROCESSING = Preprocessing(0.0, 200.0, 0.0, 1 / 200)


def samples(count=12, thickness=2):
    """Normalised samples with a tilted sheet each: 'image', 'label' and 'mask'."""
    batch = {"image": [], "label": [], "mask": []}
    for number in range(count):
        generator = np.random.default_rng(number)
        normal = generator.normal((1, 0, 0), 0.3)
        place = np.tensordot(normal / np.linalg.norm(normal), np.indices((SIZE,) * 3), 1)
        distance = np.abs(place - place.mean())
        texture = ndimage.gaussian_filter(generator.standard_normal(place.shape), 1)
        image = 80 + 60 * texture + 70 * (distance < 2) + generator.normal(0, 12)
        batch["image"].append(PREPROCESSING.scale * image)
        batch["label"].append(distance <= thickness / 2)
        batch["mask"].append(np.ones(place.shape))
    types = {"image": np.float32, "label": np.uint8, "mask": np.uint8}
    return {name: np.stack(v)[..., None].astype(types[name]) for name, v in batch.items()}


def evidence(plain, changed=None, **fields):
    stored = (plain["image"] / PREPROCESSING.scale).astype(np.float32)
    return types.SimpleNamespace(
        augmented=(plain, plain if changed is None else changed),
        settings=types.SimpleNamespace(task={"augment": fields}),
        fields={},
        task=types.SimpleNamespace(validation=[{"image": image} for image in stored]),
        preprocessing=PREPROCESSING,
    )


def augmented(plain, **fields):
    return evidence(plain, jax.jit(lambda k, b: augment(k, b, **fields))(jax.random.key(0), plain))


def with_image(plain, image):
    return plain | {"image": np.float32(image)}


def test_flips_and_moderate_scaling_keep_labels():
    plain = samples()
    assert augmentation.destroys_labels(evidence(plain, flip=0.5, rotate90=0.5)) == []
    assert augmentation.destroys_labels(evidence(plain, scale=1.0, scale_range=(0.8, 1.4))) == []


def test_thin_sheets_vanish_where_they_are_scaled():
    (found,) = augmentation.destroys_labels(
        evidence(samples(thickness=0.8), scale=1.0, scale_range=(1.9, 2.1))
    )
    assert found.field == "augment.scale_range" and "erases" in found.says
    assert found.evidence["erased"] > 0.1
    assert found.evidence["labelled_before"] == 1
    assert found.evidence["labelled_after"] == pytest.approx(1 / 8, abs=0.02)


def test_voxels_are_followed_to_their_place():
    plain = samples(4)
    label, mask = (plain[name][0, ..., 0] > 0 for name in ("label", "mask"))
    coordinates = augmentation._coordinates(plain["label"].shape)[0]
    turned = [np.rot90(x, 1, (0, 2)) for x in (coordinates, label, mask)]
    fate = augmentation._fate(label, mask, *turned)
    assert fate.seen == label.sum() and not fate.erased
    assert fate.pieces == fate.left == 1
    gone = augmentation._fate(label, mask, turned[0], np.zeros_like(label), turned[2])
    assert gone.erased == gone.seen == fate.seen and gone.left == 0
    hidden = augmentation._fate(label, mask, turned[0], turned[1], np.zeros_like(mask))
    assert hidden.seen == 0 and hidden.labelled == 0


def test_the_default_augmentation_is_plausible():
    given = augmented(samples(), flip=0.5, rotate90=0.5, noise=0.15, brightness=0.15, contrast=0.15)
    assert augmentation.implausible(given) == []
    assert preprocessing.shifted(given) == []


def test_images_drowned_in_noise_or_blurred_are_implausible():
    plain = samples()
    noise = np.random.default_rng(0).standard_normal(plain["image"].shape)
    noisy = with_image(plain, plain["image"] + 1.5 * plain["image"].std() * noise)
    (found,) = augmentation.implausible(evidence(plain, noisy, noise=1.0))
    assert found.field == "augment.noise_range" and found.severity == "error"
    assert found.evidence["implausible"] == 1
    assert found.evidence["implausible_of_validation"] == 0
    assert found.evidence["median_augmented"] > found.evidence["highest_real"]
    smooth = with_image(plain, ndimage.gaussian_filter(plain["image"], (0, 4, 4, 4, 0)))
    (found,) = augmentation.implausible(evidence(plain, smooth, blur=1.0, noise=0.1))
    assert found.field == "augment.blur_range"
    assert found.evidence["median_augmented"] < found.evidence["lowest_real"]


def test_a_few_implausible_samples_are_not_reported():
    plain = samples()
    image = plain["image"].copy()
    image[:2] += 5
    assert augmentation.implausible(evidence(plain, with_image(plain, image))) == []


def test_training_inputs_that_are_all_brighter_or_flatter():
    plain = samples()
    bright = with_image(plain, plain["image"] + 2 * plain["image"].std())
    (found,) = preprocessing.shifted(evidence(plain, bright, brightness=1.0))
    assert "brighter" in found.says and found.field == "augment.brightness_range"
    assert found.evidence["moved"] == 1
    assert found.evidence["mean_of_training"] > found.evidence["mean_of_prediction"]
    flat = with_image(plain, plain["image"].mean() + 0.3 * (plain["image"] - plain["image"].mean()))
    (found,) = preprocessing.shifted(evidence(plain, flat, contrast=1.0))
    assert "weaker contrast" in found.says and found.field == "augment.contrast_range"
    half = with_image(plain, np.where(np.arange(12) < 6, bright["image"].T, plain["image"].T).T)
    assert preprocessing.shifted(evidence(plain, half)) == []


def clipped(low, high):
    generator = np.random.default_rng(0)
    label = (generator.random((SIZE,) * 3) < 0.3).astype(np.uint8)
    image = generator.normal(60, 10, label.shape) + 60 * label
    label[0] = 255
    image[0] = 250  # what is masked does not count
    example = types.SimpleNamespace(id="a", image=image, label=label)
    return types.SimpleNamespace(
        preprocessing=Preprocessing(low, high, low, 1 / (high - low)), part=lambda _: [example]
    )


def test_clipping_that_loses_what_intensities_tell():
    assert preprocessing.saturated(clipped(35, 145)) == []
    # Half of the voxels are clipped, and the classes remain as far apart.
    assert preprocessing.saturated(clipped(60, 145)) == []
    (found,) = preprocessing.saturated(clipped(20, 50))
    assert found.field == "preprocess.high_percentile" and found.severity == "error"
    assert found.evidence["clipped"] > 0.8 and found.evidence["foreground_clipped"] > 0.99
    assert found.evidence["information_kept"] < 0.3
    (found,) = preprocessing.saturated(clipped(122, 160))
    assert found.field == "preprocess.low_percentile"


def test_information_is_that_of_the_classes():
    classes = np.arange(20000) % 2 == 0
    assert preprocessing.information(classes * 3.0, classes) == pytest.approx(np.log(2), abs=1e-3)
    values = np.random.default_rng(0).standard_normal(20000)
    assert preprocessing.information(values, classes) < 5e-4
    assert preprocessing.information(values, np.ones(20000, bool)) == 0


def test_the_same_voxels_in_training_and_prediction(volumes_folder):
    given = Evidence(tiny_config(volumes_folder))
    assert preprocessing.skew(given) == []
    drawn = given.task.train.__class__.__getitem__

    class Darker(given.task.train.__class__):
        def __getitem__(self, index):
            sample = drawn(self, index)
            return sample | {"image": sample["image"] // 2}

    darker = Darker(**vars(given.task.train))
    given.__dict__["task"] = given.task._replace(train=darker)
    (found,) = preprocessing.skew(given)
    assert found.field == "data.cache" and found.evidence["difference"] > 0.2


def test_a_run_on_volumes_of_another_scale(volumes_folder):
    given = Evidence(tiny_config(volumes_folder))
    kept = {"low": 20.0, "high": 400.0, "shift": 20.0, "scale": 1 / 380}
    given.__dict__["stored"] = {"preprocessing": kept}
    given.__dict__["preprocessing"] = Preprocessing(**kept)
    (found,) = preprocessing._refitted(given)
    assert found.severity == "error" and found.evidence["high_of_run"] == 400
    assert found.evidence["high_now"] < 256
    assert found.evidence["distance"] > found.evidence["distance_between_volumes"]
    given.__dict__["preprocessing"] = Evidence(tiny_config(volumes_folder)).preprocessing
    assert preprocessing._refitted(given) == []


def test_volumes_of_another_type(tmp_path):
    root = write_volumes(tmp_path / "data")
    path = root / "train_images" / "v1.tif"
    tifffile.imwrite(path, tifffile.imread(path).astype(np.uint16))
    assert preprocessing.skew(Evidence(tiny_config(root))) == []  # on the same scale
    tifffile.imwrite(path, tifffile.imread(path) * 200)
    (found,) = preprocessing.skew(Evidence(tiny_config(root)))
    assert "volumes of uint16 (v1)" in found.says
    assert found.evidence["usual_high"] < 256 < found.evidence["high"]
