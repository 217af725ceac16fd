"""Labelled volumes that a trained network has not seen, to judge it by."""

from pathlib import Path

from jax_seg.data import dataset, folds
from jax_seg.data.folder import find_volumes
from jax_seg.data.labels import MASKED, encode, label_table
from jax_seg.data.volumes import check_pair, open_volume


def labelled_volumes(network, images=None, labels=None):
    """The volumes to judge a network by.

    Args:
      network: Network.
      images, labels: folders; None takes what its run held out.

    Returns:
      List of labelled `Volume`, sorted by id.

    Raises:
      FileNotFoundError, ValueError: of `find_volumes`, or the run held out nothing that is known.
    """
    if images is not None:
        images, labels = (Path(folder).absolute() for folder in (images, labels))
        return find_volumes(images, images=images, labels=labels)
    fields, workdir = network.fields, Path(network.facts["workdir"])
    if "data.fold" not in fields:
        raise ValueError(
            f"{workdir} says nothing of its training data: pass --images and --labels of volumes "
            "that it has not seen."
        )
    fold = str(fields["data.fold"])
    if not fold.isdigit():
        raise ValueError(
            f"{workdir} holds out no volume (data.fold={fold}): pass --images and --labels of "
            "volumes that it has not seen."
        )
    root = fields["data.root"]
    try:
        if fields["data.name"] == "synthetic":
            section = {k: fields[f"synthetic.{k}"] for k in ("volumes", "size", "seed")}
            root = dataset.write_synthetic(workdir / "data", **section)
        volumes = find_volumes(root, images=fields["data.images"], labels=fields["data.labels"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The data of {workdir} is no longer at data.root={root} ({error}): put it back, or "
            "pass --images and --labels."
        ) from error
    _, validation = folds.split(
        [v.id for v in volumes],
        [v.scroll_id for v in volumes] if fields["data.group"] else None,
        fold=int(fold),
        folds=fields["data.folds"],
        seed=fields["data.split_seed"],
    )
    return [v for v in volumes if v.id in set(validation)]


def common_volumes(networks, images=None, labels=None):
    """The volumes of `labelled_volumes` that none of several networks was trained on.

    Raises:
      ValueError: there is none.
    """
    found = [labelled_volumes(network, images, labels) for network in networks]
    shared = set.intersection(*({v.id for v in volumes} for volumes in found))
    if not shared:
        raise ValueError(
            "No volume was held out by all of the members, as with the folds of one data set: pass "
            "--images and --labels of volumes that none has seen."
        )
    return [volume for volume in found[0] if volume.id in shared]


def read_labelled(network, volume):
    """A volume's image [D, H, W] as stored, and its label as the run encodes it.

    Raises:
      ValueError: one is broken, they differ in shape, or no voxel is labelled.
    """
    image, label = open_volume(volume.image), open_volume(volume.label)
    check_pair(image, label)
    kinds = ("foreground", "ignore", "background")
    named = {k: network.fields[f"data.{k}"] for k in kinds if f"data.{k}" in network.fields}
    voxels = encode(label.read((0, 0, 0), label.shape), label_table(**named), volume.label)
    if (voxels == MASKED).all():
        raise ValueError(f"{volume.label} has no labelled voxel: leave this volume out.")
    return image.read((0, 0, 0), image.shape), voxels
