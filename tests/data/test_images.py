"""What the folders of COD10K hold, and may get wrong."""

import re
import shutil
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

from jax_seg.data.images import (
    IN_BOTH_PARTS,
    ImageSampler,
    check_sizes,
    find_examples,
    find_images,
    read_example,
    split_validation,
)
from jax_seg.data.pipeline import batches
from jax_seg.data.readers.pictures import read_image, read_mask, resize_image
from tests.conftest import SHARED

NAMES = (
    "COD10K-CAM-1-Aquatic-3-Crab-1",
    "COD10K-CAM-1-Aquatic-3-Crab-2",
    "COD10K-CAM-2-Terrestrial-23-Cat-3",
    "COD10K-NonCAM-3-Flying-5-Bird-4",
)
ORIENTATION = 0x0112


def write_part(root, part="Train", names=NAMES, size=(48, 40)):
    """Images (width, height) with a bright square that is their mask; NonCAM masks are empty."""
    for number, name in enumerate(names):
        mask = np.zeros(size[::-1], np.uint8)
        if "NonCAM" not in name:
            mask[8 : 20 + number, 10:30] = 255
        image = np.stack([mask // 2 + 60, mask // 4 + 40, np.full_like(mask, 10 * number)], -1)
        for folder, array, extension in (("Image", image, "jpg"), ("GT_Object", mask, "png")):
            path = root / part / folder / f"{name}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return root


@pytest.fixture
def root(tmp_path):
    return write_part(write_part(tmp_path), "Test", [f"{NAMES[0]}0"])


def test_examples_and_their_names(root):
    found = find_examples(root, kind="all")
    assert [example.id for example in found] == sorted(NAMES)
    crab, _, cat, bird = found
    assert (crab.camouflaged, crab.super_class, crab.group) == (True, "Aquatic", "Aquatic-3")
    assert (cat.super_class, cat.group) == ("Terrestrial", "Terrestrial-23")
    assert not bird.camouflaged
    assert [e.id for e in find_examples(root)] == list(NAMES[:3])
    assert [e.id for e in find_examples(root, kind="NonCAM")] == [NAMES[3]]
    assert [e.id for e in find_examples(root, super_classes=["Terrestrial"])] == [NAMES[2]]


def test_other_names_are_camouflaged_images_without_super_class(tmp_path):
    write_part(tmp_path, names=["camourflage_00012"])
    (example,) = find_examples(tmp_path)
    assert (example.camouflaged, example.super_class) == (True, "")


def test_images_of_both_parts_leave_the_training_part(root):
    write_part(root, names=[IN_BOTH_PARTS[0]])
    write_part(root, "Test", [NAMES[1], IN_BOTH_PARTS[1]])
    with pytest.warns(UserWarning, match=r"2 images \(COD10K-CAM-1-Aquatic-3-Crab-2, .*-Crab-32"):
        training = find_examples(root)
    assert [example.id for example in training] == [NAMES[0], NAMES[2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(find_examples(root, "Test")) == 3


def test_what_the_folders_may_get_wrong(root):
    with pytest.raises(ValueError, match=r"super-class Amphibian: choose .* from Aquatic, Terr"):
        find_examples(root, super_classes=["Aquatic", "Amphibian"])
    with pytest.raises(ValueError, match="holds no NonCAM image"):
        find_examples(root, "Test", kind="NonCAM")
    with pytest.raises(ValueError, match=r"data.kind is 'cam'"):
        find_examples(root, kind="cam")
    with pytest.raises(FileNotFoundError, match="Validation"):
        find_examples(root, "Validation")
    (root / "Train/GT_Object" / f"{NAMES[1]}.png").unlink()
    with pytest.raises(ValueError, match=r"1 image \(.*Crab-2\) without a mask"):
        find_examples(root)
    (root / "Train/Image" / f"{NAMES[1]}.png").touch()
    with pytest.raises(ValueError, match="have the same name"):
        find_examples(root)


def test_find_images_to_predict(root, tmp_path):
    (root / "Train/Image/._hidden.jpg").touch()
    (root / "Train/Image/Thumbs.db").touch()
    assert len(find_images(root / "Train/Image")) == 4
    (one,) = find_images(root / "Train/Image" / f"{NAMES[0]}.jpg")
    assert (one.id, one.mask) == (NAMES[0], None)
    with pytest.raises(ValueError, match="have the same name"):
        find_images([root / "Train/Image", one.image])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        find_images(tmp_path / "empty")


def test_what_is_not_read_is_counted_and_named(root):
    images, masks = root / "Train/Image", root / "Train/GT_Object"
    (images / f"{NAMES[0]}.json").touch()  # what predict says about it
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        find_examples(root)
    (images / "a.heic").touch()
    (images / "more").mkdir()
    with pytest.warns(
        UserWarning, match=r"Image holds 2 entries that are not read as images \(a.h"
    ):
        assert len(find_images(images)) == 4
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(masks / "spare.png")
    with pytest.warns(UserWarning, match=r"GT_Object has 1 mask \(spare\) without an image in"):
        find_examples(root)
    for path in images.glob("COD10K*"):
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"\.webp files there in place of a\.heic, more, or"
    ):
        find_images(images)


def test_names_of_image_and_mask_meet(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "forêt") for form in ("NFC", "NFD"))
    write_part(tmp_path, names=["a"])
    for folder, name in (("Image", decomposed), ("GT_Object", composed)):
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(
            tmp_path / "Train" / folder / f"{name}.png"
        )
    assert [example.id for example in find_examples(tmp_path)] == ["a", composed]
    (tmp_path / "Train/GT_Object/a.png").rename(tmp_path / "Train/GT_Object/A_00.png")
    (tmp_path / "Train/Image/a.jpg").rename(tmp_path / "Train/Image/a 0.jpg")
    with pytest.raises(
        ValueError, match=r"spell names differently, 'a 0' and 'A_00': give each image"
    ):
        find_examples(tmp_path)


def test_two_files_of_one_name_are_both_shown(root):
    images, masks = root / "Train/Image", root / "Train/GT_Object"
    first = re.escape(str(masks / f"{NAMES[0]}.png"))
    second = re.escape(str(images / f"{NAMES[0]}.jpg"))
    with pytest.raises(ValueError, match=f"{first} and {second} have the same name"):
        find_images([images, masks])


def test_one_folder_for_images_and_masks(root):
    shutil.rmtree(root / "Train/GT_Object")
    (root / "Train/GT_Object").symlink_to(root / "Train/Image")
    with pytest.raises(ValueError, match="is given for the images and for the masks"):
        find_examples(root)


def test_corrupt_files_are_named(root):
    example = find_examples(root)[0]
    whole = example.image.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image at all"):
        example.image.write_bytes(content)
        with pytest.raises(ValueError, match=r"Crab-1.jpg cannot be read as an image"):
            read_example(example)
    example.image.unlink()
    with pytest.raises(FileNotFoundError, match=r"Crab-1.jpg"):
        read_example(example)


def test_a_mask_of_another_size(root):
    examples = find_examples(root, kind="all")
    check_sizes(examples)
    Image.fromarray(np.zeros((40, 47), np.uint8)).save(examples[2].mask)
    for check in (lambda: read_example(examples[2]), lambda: check_sizes(examples)):
        with pytest.raises(ValueError, match=r"Cat-3.png is 47×40 pixels, but its image is 48×40"):
            check()


def test_sizes_are_those_after_rotation(root):
    example = find_examples(root)[0]
    with Image.open(example.image) as image:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(example.image, exif=exif)
    check_sizes([example])
    image, mask = read_example(example)
    assert image.shape[:2] == mask.shape == (40, 48)
    assert image[mask, 0].mean() > image[~mask, 0].mean() + 60


def test_batches_of_a_sampler(root):
    sampler = ImageSampler(find_examples(root, kind="all"), 32, seed=3)
    (first, second) = batches(sampler, batch=4, start=0, count=2, threads=2)
    assert first["image"].shape == (4, 32, 32, 3)
    assert first["label"].shape == (4, 32, 32, 1)
    assert {first["image"].dtype, first["label"].dtype} == {np.dtype("uint8")}
    assert set(np.unique(first["label"])) == {0, 1}
    for epoch in (first, second):
        assert sorted(epoch["volume"]) == [0, 1, 2, 3]
    # The same image whoever asks, whenever: a resumed run sees what it would have seen.
    (again,) = batches(sampler, batch=4, start=4, count=1, threads=0)
    for name in again:
        np.testing.assert_array_equal(again[name], second[name])
    for image, number in zip(first["image"], first["volume"], strict=True):
        np.testing.assert_array_equal(
            image, resize_image(read_image(sampler.examples[number].image), 32)
        )


def test_order_changes_from_epoch_to_epoch_and_with_the_seed(root):
    examples = find_examples(root, kind="all")

    def order(epoch, **fields):
        sampler = ImageSampler(examples, 32, **fields)
        return [int(sampler[4 * epoch + i]["volume"]) for i in range(4)]

    assert len({tuple(order(epoch, seed=1)) for epoch in range(6)}) > 2
    assert len({tuple(order(0, seed=seed)) for seed in range(6)}) > 2
    assert order(3, shuffled=False) == [0, 1, 2, 3]


def test_an_epoch_of_several_passes_reads_what_as_many_epochs_of_one_would(root):
    examples = find_examples(root, kind="all")
    once, thrice = (ImageSampler(examples, 32, seed=3, passes=passes) for passes in (1, 3))
    assert (len(once), len(thrice)) == (4, 12)
    assert [int(thrice[i]["volume"]) for i in range(24)] == [
        int(once[i]["volume"]) for i in range(24)
    ]
    with pytest.raises(ValueError, match=r"data\.passes is 0"):
        ImageSampler(examples, 32, passes=0)


def test_images_in_memory_are_decoded_once_up_to_the_limit(root):
    examples = find_examples(root, kind="all")
    without = [ImageSampler(examples, 32, shuffled=False)[i] for i in range(4)]
    two_images = 2 * 32 * 32 * (3 + 1) / 2**30
    sampler = ImageSampler(examples, 32, shuffled=False, memory_gb=two_images)
    for i in range(4):
        for name in without[i]:
            np.testing.assert_array_equal(sampler[i][name], without[i][name])
    for example in examples:
        example.image.unlink()
    for i in (0, 1):  # the first to come
        for name in without[i]:
            np.testing.assert_array_equal(sampler[4 + i][name], without[i][name])
    with pytest.raises(FileNotFoundError):
        sampler[2]
    with pytest.raises(ValueError, match=r"data\.memory_gb is -1"):
        ImageSampler(examples, 32, memory_gb=-1)


def some_examples(root):
    names = [f"COD10K-CAM-1-Aquatic-{number % 5}-Crab-{number}" for number in range(20)]
    return find_examples(write_part(root, names=names, size=(8, 8)))


def test_validation_split(tmp_path):
    examples = some_examples(tmp_path)
    training, validation = split_validation(examples, share=0.25, seed=1)
    assert len(validation) == 5
    assert sorted(training + validation) == sorted(examples)
    assert (training, validation) == split_validation(examples, share=0.25, seed=1)
    assert validation != split_validation(examples, share=0.25, seed=2)[1]
    assert len(split_validation(examples, share=0.001)[1]) == 1
    assert len(split_validation(examples, share=0.999)[0]) == 1


def test_grouped_split_keeps_groups_whole(tmp_path):
    examples = some_examples(tmp_path)
    training, validation = split_validation(examples, share=0.4, grouped=True)
    assert len({example.group for example in validation}) == 2
    assert not {e.group for e in training} & {e.group for e in validation}
    one_group = [example for example in examples if example.group == "Aquatic-0"]
    with pytest.raises(ValueError, match="only 1 group"):
        split_validation(one_group, grouped=True)
    with pytest.raises(ValueError, match="validation_share is 1"):
        split_validation(examples, share=1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_real_images_in_cod10ks_folders():
    root = SHARED / "data/mitochondria2d"
    assert len(find_examples(root, kind="all")) == 117
    test = find_examples(root, "Test", kind="all")
    assert len(test) == 27
    check_sizes(test)
    masks = {
        kind: [read_mask(e.mask) for e in find_examples(root, "Test", kind)]
        for kind in ("CAM", "NonCAM")
    }
    assert (len(masks["CAM"]), len(masks["NonCAM"])) == (25, 2)
    assert all(mask.any() for mask in masks["CAM"])
    assert not any(mask.any() for mask in masks["NonCAM"])
