"""The labelled volumes of a run: find them, select those it held out, and read them."""

from pathlib import Path

from jax_seg import tasks
from jax_seg.data import dataset, folds
from jax_seg.data.folder import find_volumes
from jax_seg.data.labels import encode, label_table, require_labelled
from jax_seg.data.readers import check_pair, open_image, open_volume, read_volume, read_whole
from jax_seg.tasks import judged


def labelled(fields, workdir):
    """All of the data set of a run, what it was trained on included: {id: `Volume` or `Example`}.

    Args:
      fields: every field of its configuration by its dotted path, of `configuration.flat`.
      workdir: its folder, where generated volumes lie.

    Raises:
      FileNotFoundError, ValueError: the data are gone or damaged, or the run does not record them.
    """
    if "data.root" not in fields:
        raise ValueError(
            f"{workdir} does not record its training data: pass --images and --labels of volumes "
            "that it has not seen."
        )
    root = fields["data.root"]
    try:
        if fields["data.name"] == "synthetic":
            section = {k: fields[f"synthetic.{k}"] for k in ("volumes", "size", "seed")}
            root = dataset.write_synthetic(Path(workdir) / "data", **section)
        folders = {name: fields.get(f"data.{name}", "") for name in ("images", "labels")}
        return tasks.kind_of_run(fields).labelled(root, **folders)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The data of {workdir} is no longer at data.root={root} ({error}): put it back, or "
            "pass --images and --labels."
        ) from error


def refuse_seen(fields, workdir, on, pass_instead="--images and --labels"):
    """Raise a ValueError if a run was trained on its own validation volumes.

    Args:
      fields: every field of its configuration by its dotted path.
      workdir: its folder.
      on: `JudgedOn` of its validation part.
      pass_instead: flags to pass instead, which name other volumes.
    """
    if on.volumes != judged.TRAINING:
        return
    fold, source = fields.get("data.fold"), fields.get("train.start_from")
    why = f"holds out no volume (data.fold={fold})"
    if fold != folds.NONE:
        why = f"held out volumes that its first weights (train.start_from={source}) had seen"
    raise ValueError(f"{workdir} {why}: pass {pass_instead} of volumes that it was not trained on.")


def held_out_volumes(network, images=None, labels=None):
    """The volumes to score a network on.

    Args:
      network: Network.
      images, labels: folders; None takes the volumes that its run held out.

    Returns:
      List of labelled `Volume`, sorted by id.

    Raises:
      FileNotFoundError, ValueError: of `find_volumes`, or the run records no held-out volumes.
    """
    if images is not None:
        images, labels = (Path(folder).absolute() for folder in (images, labels))
        return find_volumes(images, images=images, labels=labels)
    fields, workdir = network.fields, network.facts["workdir"]
    refuse_seen(fields, workdir, network.judged_on)
    if network.validation_ids is None:
        raise ValueError(
            f"{workdir} does not record which volumes it held out: pass --images and --labels of "
            "volumes that it has not seen."
        )
    tasks.require_volumes(fields, workdir)
    volumes = labelled(fields, workdir)
    # As the run stored them: a new split differs if volumes were added or removed.
    if missing := sorted(set(network.validation_ids) - volumes.keys()):
        raise FileNotFoundError(
            f"{workdir} held out {missing[0]}, which is no longer in data.root="
            f"{fields['data.root']}: put it back, or pass --images and --labels."
        )
    return [volumes[name] for name in sorted(network.validation_ids)]


def common_volumes(networks, images=None, labels=None):
    """The volumes of `held_out_volumes` that none of several networks was trained on.

    Raises:
      ValueError: there is none.
    """
    found = [held_out_volumes(network, images, labels) for network in networks]
    shared = set.intersection(*({v.id for v in volumes} for volumes in found))
    if not shared:
        raise ValueError(
            "No volume was held out by all members, as with the folds of one data set: pass "
            "--images and --labels of volumes that none has seen."
        )
    return [volume for volume in found[0] if volume.id in shared]


def table_of(fields):
    """The `label_table` of a run; missing fields take its defaults."""
    kinds = ("foreground", "ignore", "background", "classes")
    return label_table(**{k: fields[f"data.{k}"] for k in kinds if f"data.{k}" in fields})


def add_flags(parser):
    """Add --images and --labels, the folders of `held_out_volumes`, to a command line."""
    parser.add_argument(
        "--images", help="folder of volumes to use instead of the held-out ones; requires --labels"
    )
    parser.add_argument("--labels", help="folder of labels for --images")


def given(arguments):
    """The folders that --images and --labels name: both, or neither.

    Raises:
      ValueError: there is only one of them.
    """
    if (arguments.images is None) != (arguments.labels is None):
        raise ValueError("--images and --labels belong together: give both or neither.")
    return [folder for folder in (arguments.images, arguments.labels) if folder]


def read_label(path, table):
    """A label [D, H, W], encoded.

    Raises:
      FileNotFoundError, ValueError: it is damaged, holds an unknown value, or no voxel is labelled.
    """
    label = encode(read_volume(path), table, path)
    require_labelled(label, path)
    return label


def read_labelled(volume, table):
    """A volume's image as stored, [D, H, W] or [D, H, W, C], and its label, encoded by a table.

    Raises:
      FileNotFoundError, ValueError: of `read_label`, or image and label differ in shape.
    """
    image = open_image(volume.image)
    check_pair(image, open_volume(volume.label))
    label = read_label(volume.label, table)
    return read_whole(image), label
