"""Images with the masks of their objects, in the folders of COD10K-v3.

`root/Train` and `root/Test` hold `Image/NAME.jpg` and `GT_Object/NAME.png`. A name such as
COD10K-CAM-1-Aquatic-3-Crab-32 says whether the image has a camouflaged object (CAM or NonCAM), its
super-class and its class. Images with other names count as CAM, without a super-class.
"""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data.names import (
    alike,
    entries,
    plain,
    require_two_folders,
    side_by_side,
    some,
    warn_of_rest,
)
from jax_seg.data.readers.pictures import (
    read_image,
    read_mask,
    read_size,
    resize_image,
    resize_mask,
)
from jax_seg.system.files import existing

KINDS = ("CAM", "NonCAM", "all")
IN_BOTH_PARTS = ("COD10K-CAM-1-Aquatic-3-Crab-32", "COD10K-CAM-2-Terrestrial-23-Cat-1506")
"""Images of COD10K-v3 that are in both the training and the test part."""

_NAME = re.compile(r"COD10K-(CAM|NonCAM)-\d+-([^-]+)-(\d+)-.+")
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Example(NamedTuple):
    """One image on disk; `mask` is None where there is only an image to predict.

    `group` names the class within the super-class: images of one group resemble each other.
    """

    id: str
    image: Path
    mask: Path | None
    camouflaged: bool
    super_class: str
    group: str


def find_examples(root, part="Train", kind="CAM", super_classes=()):
    """The images of one part of a data set, each with its mask.

    Images of the training part that are also in the test part are excluded, with a warning.

    Args:
      root: folder that holds `part`.
      part: 'Train' or 'Test', or another folder with Image and GT_Object in it.
      kind: 'CAM' with a camouflaged object, 'NonCAM' without, or 'all'.
      super_classes: names to keep, such as 'Aquatic'; empty for all.

    Returns:
      [Example], sorted by id.

    Raises:
      FileNotFoundError: a folder is missing or holds no image.
      ValueError: an image has no mask, a name occurs twice, no image is of this kind, or a
        super-class has no image.
    """
    if kind not in KINDS:
        raise ValueError(f"data.kind is {kind!r}; choose one of {', '.join(KINDS)}.")
    folder = existing(root, "data.root") / part
    found = _with_masks(find_images(folder / "Image"), folder / "Image", folder / "GT_Object")
    if kind != "all":
        found = [example for example in found if example.camouflaged == (kind == "CAM")]
        if not found:
            raise ValueError(
                f"{folder / 'Image'} holds no {kind} image: set data.kind to the other kind or to "
                "'all'."
            )
    found = _of_super_classes(found, super_classes, folder)
    if part == "Train":
        found = _not_in_the_test_part(found, existing(Path(root)) / "Test" / "Image")
    return found


def find_images(source):
    """The images to predict, without masks: [Example], sorted by id.

    Args:
      source: an image file, a folder of images, or a list of these.

    Raises:
      FileNotFoundError: a path is missing, or holds no image.
      ValueError: two files have the same name.
    """
    sources = [source] if isinstance(source, str | Path) else source
    paths = [path for one in sources for path in _images_in(Path(one))]
    return [_example(id, path) for id, path in sorted(_by_id(paths).items())]


def split_validation(examples, share=0.1, seed=0, grouped=False):
    """Split the training part into training and validation images; the test part is not involved.

    Args:
      examples: [Example].
      share: part of the images, or of the groups, for validation, between 0 and 1.
      seed: of the draw.
      grouped: keep all images of one `group` on one side; for tiles of one picture or frames of
        one film. With COD10K's photographs it would remove whole kinds of animals.

    Returns:
      (training, validation), both in the given order; at least one image or group in each.

    Raises:
      ValueError: the share is not between 0 and 1, or there are fewer than two images or groups.
    """
    if not 0 < share < 1:
        raise ValueError(f"data.validation_share is {share}; give a number between 0 and 1.")
    key = (lambda example: example.group) if grouped else (lambda example: example.id)
    names = sorted({key(example) for example in examples})
    if len(names) < 2:
        what = "group" if grouped else "image"
        raise ValueError(
            f"There is only {len(names)} {what} to split into training and validation: add images"
            + (" or set data.grouped to false." if grouped else ".")
        )
    number = min(max(round(share * len(names)), 1), len(names) - 1)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(names))
    chosen = {names[index] for index in order[:number]}
    training = [example for example in examples if key(example) not in chosen]
    return training, [example for example in examples if key(example) in chosen]


def check_sizes(examples):
    """Compare the sizes of all images and masks, reading headers only.

    Raises:
      ValueError: a file cannot be read, or a mask has another size than its image; the first is
        named.
    """
    for example in examples:
        _require_same_size(example, read_size(example.image), read_size(example.mask))


def read_example(example):
    """(image uint8 [H, W, 3], mask bool [H, W]) of an example.

    Raises:
      FileNotFoundError, ValueError: a file cannot be read, or the sizes differ.
    """
    image, mask = read_image(example.image), read_mask(example.mask)
    _require_same_size(example, image.shape[1::-1], mask.shape[::-1])
    return image, mask


@dataclasses.dataclass(frozen=True)
class ImageSampler:
    """A random-access source of images resized to a square, for `pipeline.batches`.

    Every pass visits each image once, in an order of its own where `shuffled`; an epoch is one pass
    or several.

    Attributes:
      examples: [Example] with masks.
      side: of the square, pixels; a multiple of 32 leaves the network nothing to pad.
      seed: of the order.
      shuffled: false keeps the given order, for validation.
      passes: of an epoch. Validating and saving, once an epoch, take longer than one pass over a
        few images.
      memory_gb: GiB that resized images and masks may take in memory, so that they are decoded
        once. The first to arrive are kept: every pass reads each image once, so evicting the
        oldest would evict the next one needed.
    """

    examples: list
    side: int
    seed: int = 0
    shuffled: bool = True
    passes: int = 1
    memory_gb: float = 0.0
    _kept: dict = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.passes < 1:
            raise ValueError(f"data.passes is {self.passes}; set it to 1 or more.")
        if self.memory_gb < 0:
            raise ValueError(
                f"data.memory_gb is {self.memory_gb}; give the GiB that resized images may take, "
                "0 for none."
            )

    def __len__(self):
        return len(self.examples) * self.passes

    def volume_of(self, index):
        """The number of the example that image `index` is; nothing is read."""
        number_of_pass, number = divmod(int(index), len(self.examples))
        if self.shuffled:
            key = np.array([self.seed, number_of_pass], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=key))
            number = int(generator.permutation(len(self.examples))[number])
        return number

    def __getitem__(self, index):
        """Image `index` >= 0: a dict.

        'image' is uint8 [side, side, 3], 'label' uint8 [side, side, 1] of 0 background and 1
        object, 'volume' the int32 number of the example.
        """
        number = self.volume_of(index)
        image, label = self._resized(number)
        return {"image": image, "label": label, "volume": np.int32(number)}

    def _resized(self, number):
        if number in self._kept:
            return self._kept[number]
        image, mask = read_example(self.examples[number])
        image = resize_image(image, self.side)
        label = resize_mask(mask, self.side).astype(np.uint8)[..., None]
        if (len(self._kept) + 1) * (image.nbytes + label.nbytes) <= self.memory_gb * 2**30:
            self._kept[number] = image, label
        return image, label


def _example(id, path):
    if named := _NAME.fullmatch(id):
        kind, super_class, number = named.groups()
        return Example(id, path, None, kind == "CAM", super_class, f"{super_class}-{number}")
    return Example(id, path, None, True, "", id)


def _images_in(path):
    """The image at `path`, or all images of the folder `path`; warns of other entries."""
    path = existing(path)
    if path.is_file():
        return [path]
    children = entries(path)
    found = [child for child in children if child.suffix.lower() in _EXTENSIONS]
    rest = [child for child in children if child not in found]
    if not found:
        held = f" in place of {', '.join(child.name for child in rest[:5])}" if rest else ""
        raise FileNotFoundError(
            f"{path} holds no image: put {', '.join(_EXTENSIONS)} files there{held}, or name "
            "another folder."
        )
    warn_of_rest(path, rest, {_id(child) for child in found}, "images")
    return found


def _id(path):
    return plain(path.stem)


def _by_id(paths):
    path_of = {}
    for path in sorted(paths):
        if other := path_of.get(_id(path)):
            raise ValueError(f"{other} and {path} have the same name: keep one file per name.")
        path_of[_id(path)] = path
    return path_of


def _with_masks(found, images, masks):
    require_two_folders(images, masks, ("images", "masks"))
    mask_of = _by_id(_images_in(masks))
    without = [example.id for example in found if example.id not in mask_of]
    spare = sorted(mask_of.keys() - {example.id for example in found})
    if pairs := alike(without, spare):
        raise ValueError(
            f"{images} and {masks} spell names differently, {side_by_side(pairs)}: give each "
            "image and its mask the same name."
        )
    if without:
        raise ValueError(
            f"{images} has {some(without, 'image')} without a mask in {masks}: add the masks or "
            "move the images elsewhere."
        )
    if spare:
        warnings.warn(
            f"{masks} has {some(spare, 'mask')} without an image in {images}: they are skipped.",
            stacklevel=2,
        )
    return [example._replace(mask=mask_of[example.id]) for example in found]


def _of_super_classes(examples, super_classes, folder):
    if not super_classes:
        return examples
    present = sorted({example.super_class for example in examples} - {""})
    if missing := sorted(set(super_classes) - set(present)):
        raise ValueError(
            f"{folder / 'Image'} holds no image of the super-class {', '.join(missing)}: choose "
            f"data.super_classes from {', '.join(present) or 'nothing, since no name has one'}."
        )
    return [example for example in examples if example.super_class in super_classes]


def _not_in_the_test_part(examples, test):
    tested = {_id(path) for path in test.iterdir()} if test.is_dir() else set()
    repeated = [example.id for example in examples if example.id in tested.union(IN_BOTH_PARTS)]
    if not repeated:
        return examples
    warnings.warn(
        f"{some(repeated, 'image')} excluded from the training part because the test part also "
        "contains them.",
        stacklevel=3,
    )
    kept = [example for example in examples if example.id not in repeated]
    if not kept:
        raise ValueError(f"Every training image is also in {test}: give each part its own images.")
    return kept


def _require_same_size(example, image_size, mask_size):
    if tuple(image_size) != tuple(mask_size):
        raise ValueError(
            f"{example.mask} is {mask_size[0]}×{mask_size[1]} pixels, but its image is "
            f"{image_size[0]}×{image_size[1]}, as its EXIF orientation shows it: save the mask at "
            "the size of the image."
        )
