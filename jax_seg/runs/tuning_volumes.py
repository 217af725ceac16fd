"""Find saved probabilities with their labels, and divide them for searching and scoring."""

import functools
from pathlib import Path
from typing import NamedTuple

from jax_seg import tasks
from jax_seg.data.folder import find_images
from jax_seg.data.names import plain, require_two_folders
from jax_seg.data.readers import open_image, open_volume, read_whole
from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import scoring
from jax_seg.runs import held_out
from jax_seg.tasks import judged, sources

MOST_FOLDS = 5
HELD = 4  # volumes in memory; those of 320³ take 0.2 GB each


class Paths(NamedTuple):
    """The files of one volume: `group` is its scroll, `image` None if unknown.

    `judged_on` records how the volume relates to the network that predicted it.
    """

    id: str
    group: str
    probability: Path
    label: Path
    image: Path | None
    judged_on: judged.JudgedOn = judged.JudgedOn()


def find(run, probabilities=None, labels=None, images=None):
    """The volumes to tune on.

    Args:
      run: `Run`.
      probabilities: folder of volumes; None for those of the run.
      labels: folder of volumes of the same names; None for those of the run's configuration.
      images: folder of images of the same names, or None; requires `labels`.

    Returns:
      ([Paths], {id: error}, table of `label_table`).

    Raises:
      ValueError, FileNotFoundError: a folder does not exist, or no configuration names it.
    """
    workdir, fields = run.workdir, run.fields
    own = workdir / "validation" / "probabilities"
    probabilities = probabilities or own
    if not probabilities.exists():
        raise FileNotFoundError(
            f"{probabilities} does not exist: let the training run finish, or name another folder "
            "with --probabilities."
        )
    if images and not labels:
        raise ValueError("--images requires --labels: name both folders, or neither.")
    if images:
        require_two_folders(images, labels)
    tasks.require_volumes(fields, workdir)
    tasks.require_one_class(fields, workdir)
    if not (fields or labels):
        raise FileNotFoundError(
            f"{workdir / 'config.json'} does not exist, so the labels are not known: name the "
            "folder of a training run, or --labels."
        )
    of_run = probabilities.resolve() == own.resolve()
    if of_run or not labels:
        held_out.refuse_seen(fields, workdir, run.judged_on, "--probabilities and --labels")
    predicted = {volume.id: volume.image for volume in find_images(probabilities)}
    labelled, wanted = _labelled(fields, workdir, labels, images)
    known = {
        v.id: Paths(v.id, v.scroll_id, predicted.get(v.id), v.label, v.image) for v in labelled
    }
    if of_run:
        _require_present(run, known)
    errors, found = {}, []
    for name in sorted(predicted.keys() | wanted):
        if name not in known:
            where = labels or fields["data.root"]
            errors[name] = (
                f"{predicted[name]} has no label in {where}: add it, or move this file away."
            )
        elif name not in predicted:
            errors[name] = f"{known[name].label} has no prediction in {probabilities}: predict it."
        else:
            found.append(known[name])
    on = _judged_on(found, run, of_run=of_run, of_data=not labels)
    found = [paths._replace(judged_on=on[paths.id]) for paths in found]
    return found, errors, held_out.table_of(fields)


def _require_present(run, known):
    """Refuse probabilities of images that changed since; a changed label only scores them anew."""
    changed = sources.changed(run.validation)
    images = {n: ["image"] for n, parts in changed.items() if "image" in parts and n in known}
    if images:
        raise ValueError(
            f"{sources.in_words(images)} changed since {run.workdir}/validation/probabilities was "
            "predicted: run launch.py again, which predicts it anew."
        )


def _labelled(fields, workdir, labels, images):
    """([Volume] with labels, ids of the volumes that must have a prediction)."""
    if not labels:
        # The run's other volumes were trained on, and have no prediction.
        return list(held_out.labelled(fields, workdir).values()), set()
    channels = fields.get("model.in_channels", 1)
    image_of = {v.id: v.image for v in find_images(images, channels)} if images else {}
    found = [v._replace(label=v.image, image=image_of.get(v.id)) for v in find_images(labels)]
    return found, {volume.id for volume in found}


def _judged_on(found, run, *, of_run, of_data):
    """{id: JudgedOn} of [Paths].

    Args:
      found: [Paths].
      run: `Run`.
      of_run: whether the run itself left the probabilities: those of its validation part.
      of_data: whether the labels are those of the run's data, which it was trained on but for its
        validation part.
    """
    on = run.judged_on
    if of_run:
        return {paths.id: on for paths in found}
    noted = {paths.id: judged.of_prediction(paths.probability, paths.id) for paths in found}
    validated = run.volumes if of_data else {}
    for name, one in noted.items():
        if validated and one.volumes == judged.UNKNOWN:
            noted[name] = on if name in validated else judged.JudgedOn(judged.TRAINING)
    return noted


class Volumes:
    """Reads volumes by their id and holds the last few; a copy in another process begins with none.

    Args:
      paths: {id: Paths}.
      table: of `find`.
    """

    def __init__(self, paths, table):
        self._paths, self._table = paths, table
        self._held = functools.lru_cache(HELD)(self._read)

    def __call__(self, name):
        """The `scoring.Arrays` of a volume; raises as `read_volume`."""
        return self._held(name)

    def _read(self, name):
        return read_volume(self._paths[name], self._table)

    def __reduce__(self):
        return Volumes, (self._paths, self._table)


def read_volume(paths, table):
    """The `scoring.Arrays` of a volume.

    Raises:
      ValueError, OSError: a file is missing or damaged, shapes differ, or no voxel is
        labelled.
    """
    probability, image = open_volume(paths.probability), paths.image and open_image(paths.image)
    for other in filter(None, (open_volume(paths.label), image)):
        if other.shape != probability.shape:
            raise ValueError(
                f"{paths.probability} has shape {probability.shape} but {other.path} has "
                f"{other.shape}: predict the whole volume."
            )
    label, voxels = held_out.read_label(paths.label, table), read_whole(probability)
    try:
        checked = postprocess.check_probability(voxels)
    except ValueError as error:
        raise ValueError(f"{paths.probability}: {error}") from error
    return scoring.Arrays(checked, label, image and read_whole(image))


def folds(volumes, hold_out=()):
    """Pairs (ids searched, ids scored), so that no gain is reported on the volumes searched.

    Args:
      volumes: [Paths].
      hold_out: ids to score on. By default every group is held out once, and more than
        five groups a fifth at a time; a group is a scroll, or a volume if there is only one scroll.

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
