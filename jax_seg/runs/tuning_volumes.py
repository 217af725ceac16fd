"""Saved probabilities with their labels, and which are searched on when others are scored."""

from pathlib import Path
from typing import NamedTuple

from jax_seg.data.folder import find_images
from jax_seg.data.names import plain, require_two_folders
from jax_seg.data.readers import open_volume
from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import search
from jax_seg.runs import config as configuration
from jax_seg.runs import held_out
from jax_seg.system.files import read_json

MOST_FOLDS = 5


class Paths(NamedTuple):
    """Where one volume lies: `group` is its scroll, `image` None where it is not known."""

    id: str
    group: str
    probability: Path
    label: Path
    image: Path | None


def find(workdir, probabilities=None, labels=None, images=None):
    """The volumes to tune on.

    Args:
      workdir: folder of the run.
      probabilities: folder of volumes; None for those of the run.
      labels: folder of volumes of the same names; None for those of the run's configuration.
      images: such a folder, or None; read beside `labels` alone.

    Returns:
      ([Paths], {id: error}, table of `label_table`).

    Raises:
      ValueError, FileNotFoundError: there is no such folder, or no configuration to find one by.
    """
    probabilities = probabilities or workdir / "validation" / "probabilities"
    if not probabilities.exists():
        raise FileNotFoundError(
            f"{probabilities} does not exist: let the training run finish, or name another folder "
            "with --probabilities."
        )
    if images and not labels:
        raise ValueError("--images belongs beside --labels: name both folders, or neither.")
    if images:
        require_two_folders(images, labels)
    path, fields = workdir / "config.json", {}
    if path.exists():
        fields = configuration.flat(configuration.from_dict(read_json(path)))
        held_out.refuse_images(fields, workdir)
    predicted = {volume.id: volume.image for volume in find_images(probabilities)}
    if not (fields or labels):
        raise FileNotFoundError(
            f"{path} does not exist, so the labels are not known: name the folder of a training "
            "run, or --labels."
        )
    if labels:
        image_of = {v.id: v.image for v in find_images(images)} if images else {}
        labelled = [
            v._replace(label=v.image, image=image_of.get(v.id)) for v in find_images(labels)
        ]
        wanted = sorted(predicted.keys() | {volume.id for volume in labelled})
    else:
        held_out.refuse_seen(fields, workdir)
        labelled = held_out.run_volumes(fields, workdir)
        wanted, labels = sorted(predicted), fields["data.root"]  # the others were trained on
    known = {
        v.id: Paths(v.id, v.scroll_id, predicted.get(v.id), v.label, v.image) for v in labelled
    }
    errors = {}
    for name in wanted:
        if name not in known:
            errors[name] = f"{predicted[name]} has no label in {labels}: add it or move this out."
        elif name not in predicted:
            errors[name] = f"{known[name].label} has no prediction in {probabilities}: predict it."
    return [known[n] for n in wanted if n not in errors], errors, held_out.table_of(fields)


def read_volume(paths, table):
    """The `search.Arrays` of a volume.

    Raises:
      ValueError, OSError: a file is missing or damaged, they do not fit together, or no voxel is
        labelled.
    """
    probability, image = open_volume(paths.probability), paths.image and open_volume(paths.image)
    for other in filter(None, (open_volume(paths.label), image)):
        if other.shape != probability.shape:
            raise ValueError(
                f"{paths.probability} has shape {probability.shape} but {other.path} has "
                f"{other.shape}: predict the whole volume."
            )
    label = held_out.read_label(paths.label, table)
    try:
        checked = postprocess.check_probability(_read(probability))
    except ValueError as error:
        raise ValueError(f"{paths.probability}: {error}") from error
    return search.Arrays(checked, label, image and _read(image))


def _read(reader):
    return reader.read((0, 0, 0), reader.shape)


def folds(volumes, hold_out=()):
    """Pairs (ids searched on, ids scored on), so that a gain is never reported where it was sought.

    Args:
      volumes: [Paths].
      hold_out: ids to score on. By default every group is held out once, of more than five
        groups a fifth at a time; a group is a scroll, or a volume where there is one scroll.

    Returns:
      List of ([id], [id]); empty for a single volume.

    Raises:
      ValueError: an id is unknown, or all are held out.
    """
    ids, hold_out = [volume.id for volume in volumes], [plain(name) for name in hold_out]
    if unknown := sorted(set(hold_out) - set(ids)):
        raise ValueError(
            f"--hold_out names {', '.join(unknown)}, which cannot be scored: choose from "
            f"{', '.join(ids)}."
        )
    if hold_out:
        parts = [set(hold_out)]
    else:
        groups = {}
        several = len({volume.group for volume in volumes}) > 1
        for volume in volumes:
            groups.setdefault(volume.group if several else volume.id, set()).add(volume.id)
        groups = [groups[name] for name in sorted(groups)] if len(groups) > 1 else []
        parts = [set().union(*groups[k::MOST_FOLDS]) for k in range(min(MOST_FOLDS, len(groups)))]
    pairs = [([n for n in ids if n not in part], [n for n in ids if n in part]) for part in parts]
    if not all(searched for searched, _ in pairs):
        raise ValueError("--hold_out names every volume: leave at least one to search on.")
    return pairs
