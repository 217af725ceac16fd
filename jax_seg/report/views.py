"""Which volumes the page shows, and their pictures."""

import numpy as np

from jax_seg.data.labels import class_names
from jax_seg.metrics import threshold
from jax_seg.ops.classes import FOREGROUND
from jax_seg.report import sprites
from jax_seg.report.colours import of_classes
from jax_seg.runs import held_out
from jax_seg.runs import run as opened

SHOWN = 3  # volumes
PIXELS = 12e6  # of all slices together, to begin with
CHARACTERS = 8.5e6  # that their pictures may take, which keeps the page below 10 MB
FLATTEST = 5  # width of a slice by its height: a flatter one is stretched to be visible
THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # that the page's slider offers


def views(runs, pixels=PIXELS, characters=CHARACTERS):
    """The pictures of the worst, the median and the best volume.

    Args:
      runs: list of `runs.run.Run`.
      pixels: see PIXELS; reduced until the pictures fit.
      characters: see CHARACTERS.

    Returns:
      (dict, problems): 'thresholds', 'flattest', and 'volumes', a list of {'id', 'rank', 'note',
      'shape', 'image': three data addresses, 'probability': whether it replaces the image,
      'labelled', 'start': indices of the slices shown first, 'runs'} with `sprites.layout`; its
      'runs' are {'run': number, 'classes': three data addresses, 'threshold': index of its own,
      'scores': in words, 'names': of several classes, each with its 'colour'}. Problems are
      sentences about what cannot be shown.
    """
    used = [run.setting("validate.threshold", threshold.DEFAULT) for run in runs]
    thresholds = sorted({*THRESHOLDS, *used})
    chosen = choose(runs)
    while True:
        problems, volumes = [], []
        for name, rank in chosen:
            found = _view(runs, name, thresholds, used, pixels / len(chosen), problems)
            if found:
                volumes.append({"id": name, "rank": rank, "note": _note(found), **found})
        size = sum(_characters(volume) for volume in volumes)
        smallest = all(len(p) == 1 for volume in volumes for p in volume["positions"])
        if size <= characters or smallest:
            shown = {"thresholds": thresholds, "flattest": FLATTEST, "volumes": volumes}
            return shown, problems
        pixels *= 0.9 * characters / size


def choose(runs):
    """[(id, rank)] of the volumes to show: by mean Dice over the runs, of those with pictures.

    Of kinds that take little space, several of the worst are shown, beside the median and the best.
    """
    scores = {}
    for run in runs:
        for name in run.probabilities:
            dice = run.volumes.get(name, {}).get("dice")
            scores.setdefault(name, []).extend([] if dice is None else [dice])
    judged = sorted((n for n in scores if scores[n]), key=lambda n: (np.mean(scores[n]), n))
    if not judged:
        return [(name, "") for name in sorted(scores)[:SHOWN]]
    middle = judged[(len(judged) - 1) // 2]
    count = min(run.kind.WORST for run in runs)
    if 1 < count < len(judged) - 1:
        worst = [(name, f"worst, {k}") for k, name in enumerate(judged[:count], 1)]
        middles = [(middle, "median")] if middle not in judged[:count] else []
        return [*worst, *middles, (judged[-1], "best")]
    found = {"worst": judged[0], "median": middle, "best": judged[-1]}
    if len(judged) < 3:
        del found["median"]
    if len(judged) < 2:
        found = {"": middle}
    return [(name, rank) for rank, name in found.items()]


def _view(runs, name, thresholds, used, pixels, problems):
    """The view of one volume, or None; `problems` receives why a run's is not shown."""
    found, size = None, None
    for number, run in enumerate(runs):
        if name not in run.probabilities:
            continue
        try:
            image, label, probability = opened.read_volume(run, name)
            names = _class_names(run, name)
            pair = opened.read_classes(run, name) if names else (label, probability)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if found is None:
            size, share = probability.shape, len([r for r in runs if name in r.probabilities])
            # Each further run adds its classes, which take about a third of an image's space.
            slices = sprites.choose_slices(size, pixels / (1 + (share - 1) / 3))
            grey = probability if image is None else image
            grey = grey[..., 0] if grey.ndim == 4 else grey  # the first channel
            low, high = sprites.contrast(grey)
            mask = probability > used[number] if label is None else label == FOREGROUND
            found = {
                "shape": list(size),
                "image": [
                    sprites.address(sprites.grey(stack, low, high), lossless=False)
                    for stack in sprites.stacks(grey, slices)
                ],
                "probability": image is None,
                "labelled": label is not None,
                "start": sprites.fullest(mask, slices),
                "runs": [],
                **sprites.layout(size, slices),
            }
        elif probability.shape != size or (label is not None) != found["labelled"]:
            problems.append(
                f"{run.probabilities[name]} is not the same volume as that of {runs[0].name}, so "
                "it is not shown."
            )
            continue
        found["runs"].append(
            {
                "run": number,
                "classes": _sheets(*pair, slices, None if names else thresholds),
                "threshold": thresholds.index(used[number]),
                "scores": " ".join([*_scores(run, name), *_about_classes(run, names)]),
                "names": [
                    {"name": one, "colour": colour}
                    for one, colour in zip(names, of_classes(names), strict=True)
                ],
            }
        )
    return found


def _class_names(run, name):
    """The classes that are told apart in the pictures of a volume; () shows them as one."""
    names = class_names(run.fields.get("data.classes", ()))
    return names if name in run.masks and len(names) <= sprites.MOST_CLASSES else ()


def _sheets(label, prediction, slices, thresholds):
    """Data addresses of three axes: `sprites.numbered`, or of thresholds `sprites.classes`."""
    labels = [None] * 3 if label is None else sprites.stacks(label, slices)
    return [
        sprites.address(
            sprites.classes(*both, thresholds) if thresholds else sprites.numbered(*both),
            lossless=True,
        )
        for both in zip(labels, sprites.stacks(prediction, slices), strict=True)
    ]


def _scores(run, name):
    if name not in run.volumes:
        return []
    scores = run.volumes[name]
    shown = {"dice": "Dice", "precision": "precision", "recall": "recall"}
    shown |= {key: key for key in scores if key.startswith(opened.OF_CLASS)}
    values = (f"{title} {scores[key]:.3f}" for key, title in shown.items())
    return [f"Whole {run.judged_on.mark(run.noun)}: {', '.join(values)}."]


def _about_classes(run, names):
    """Sentences on what the slices show of several classes; `names` of `_class_names`."""
    if len(class_names(run.fields.get("data.classes", ()))) < 2:
        return []
    if not names:
        return ["All classes are shown as one."]
    about = ["A slice's Dice is that of all classes pooled."]
    if run.setting("postprocess.steps"):
        about.append("The prediction is shown after post-processing, but scored before it.")
    if not held_out.table_of(run.fields).classes.exclusive:
        about.append("Of classes that share voxels the last is shown and compared.")
    return about


def _note(view):
    if view["shape"][0] == 1:
        return f"{view['shape'][2]} × {view['shape'][1]} pixels."
    note = f"{' × '.join(map(str, view['shape']))} voxels"
    shown = [len(positions) for positions in view["positions"]]
    if shown != view["shape"]:
        note += f"; {shown[0]}, {shown[1]} and {shown[2]} slices along the three axes are shown"
    if view["stride"] > 1:
        note += f"; in-plane resolution is reduced {view['stride']}-fold"
    if any(width > FLATTEST * height for height, width in view["tiles"]):
        note += "; flat slices are stretched in height"
    if view["probability"]:
        note += "; the image is not on this machine, so the probability is shown instead"
    return note + "."


def _characters(volume):
    sheets = [*volume["image"], *(s for run in volume["runs"] for s in run["classes"])]
    return sum(map(len, sheets))
