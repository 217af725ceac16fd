"""The model card of an export: what a network is, what it was trained on, what its scores mean.

After Mitchell et al. 2019, "Model cards for model reporting", as far as a run records it.
"""

import hashlib
import importlib.metadata
import json
import warnings
from pathlib import Path

import jax

from jax_seg.data.preprocess import PerVolume, of_channels
from jax_seg.data.readers import open_image
from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import read_steps
from jax_seg.runs import checkpoints
from jax_seg.runs.run import open_run
from jax_seg.tasks import judged

MOST_PROBABLE = "the most probable class"
SHOWN = ("dice", "iou", "precision", "recall", "accuracy")


def text(sources, mark):
    """The card of one or several networks, in Markdown.

    Args:
      sources: list of `exporting.Source`.
      mark: of `outputs.written_by`.
    """
    names = [Path(one.loaded.facts["workdir"]).name for one in sources]
    parts = [f"# {', '.join(names)}\n\n{_intent(sources)}"]
    for number, source in enumerate(sources):
        head = f"## Network {number}: {names[number]}\n\n" if sources[1:] else ""
        parts += [head + _table(_facts(source)), _trained_on(source), _scores(source)]
    parts += [
        "Use: `python segment.py VOLUME.npy PROBABILITIES.npy` (numpy, jax and flatbuffers); "
        "model.json describes the files.",
        f"Code: jax_seg {checkpoints.code_version()}, "
        f"{importlib.metadata.metadata('jax-seg')['License-Expression']}. The licence of the code "
        "says nothing of the rights in the weights and in the volumes they were trained on.",
        f"This file was {mark}.",
    ]
    return "\n\n".join(parts) + "\n"


def threshold(sources):
    """The probability above which predict takes a voxel for foreground.

    None if they differ, and where of several classes the most probable is taken.
    """
    if sources[0].classes.exclusive:
        return None
    found = {_threshold(one) for one in sources}
    return found.pop() if len(found) == 1 else None


def configuration_digest(config):
    """Short digest of a stored configuration."""
    content = json.dumps(config, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _intent(sources):
    how = "The mean of several networks' probabilities" if sources[1:] else "A network"
    first = sources[0]
    image = "a volume [D, H, W] of one channel"
    if first.channels > 1:
        image = f"a volume [D, H, W, {first.channels}] of {first.channels} channels"
    named = dict(_named(first))
    if len(named) > 1:
        marked = ", ".join(f"{name} (label {values})" for name, values in named.items())
        alone = "softmax with a background" if first.classes.exclusive else "each by itself"
        return (
            f"{how} that tells classes of 3-D volumes apart: {marked}. Input: {image}, as stored. "
            f"Output: the probability of each class in each voxel, {alone}."
        )
    values = {_values(one) for one in sources} - {""}
    labelled = f", trained on label {' or '.join(sorted(values))}" if values else ""
    return (
        f"{how} that marks the foreground of 3-D volumes{labelled}. Input: {image}, as stored. "
        "Output: the probability of the foreground in each voxel."
    )


def _named(source):
    """[(name, its label values in words)] of the field data.classes."""
    for text in source.loaded.fields.get("data.classes", ()):
        name, _, values = text.partition("=")
        yield name, values.replace(",", " or ")


def _values(source):
    """The label values of the foreground, in words."""
    for _, values in _named(source):
        return values
    label = source.loaded.fields.get("data.foreground")
    return " or ".join(map(str, label)) if isinstance(label, tuple | list) else str(label or "")


def _facts(source):
    facts, fields = source.loaded.facts, source.loaded.fields
    count = sum(leaf.size for leaf in jax.tree.leaves(source.variables["params"]))
    steps, decided = list(_steps(source)), f"{fields['validate.threshold']:g}"
    first = postprocess.parse(steps[0])[0] if steps else ""
    if source.classes.exclusive:  # instead of any threshold
        steps, decided = steps[first == "threshold" :], MOST_PROBABLE
    if first not in postprocess.FIRST or (first == "threshold" and source.classes.exclusive):
        steps.insert(0, decided)
    return {
        "network": f"{fields['model.name']}, {count:,} parameters, {fields['model.dtype']}",
        "weights": f"{facts['weights']} of step {facts['step']}, epoch {facts['epoch']}",
        "digest of the weights": facts["digest"],
        "digest of the configuration": configuration_digest(source.beside["config"]),
        "window": f"{' × '.join(map(str, facts['patch']))} voxels, overlap {facts['overlap']:g}",
        "voxel spacing (z, y, x)": _spacing(source),
        "preprocessing, in the program": _normalisation(source.rule),
        "threshold and post-processing, not in the program": ", ".join(steps),
        "trained with": f"jax_seg {facts['trained_with']}",
    }


def _steps(source):
    """The steps of post-processing with which predict would use a network."""
    tuned = read_steps(source.loaded.facts["workdir"])
    return source.loaded.fields.get("postprocess.steps") or () if tuned is None else tuned


def _threshold(source):
    """That with which predict would use a network; None where its steps begin with hysteresis."""
    name, parameters = postprocess.parse(_steps(source)[0]) if _steps(source) else ("", {})
    if name in postprocess.FIRST:
        return (postprocess.defaults(name) | parameters).get("value")
    return source.loaded.fields["validate.threshold"]


def _table(facts):
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items())])


def _normalisation(rule):
    if isinstance(rule, PerVolume):
        return (
            f"each volume by its own intensities: {rule.name}, percentiles "
            f"{rule.low_percentile:g} to {rule.high_percentile:g} of its voxels ({rule.region})"
        )
    channels = of_channels(rule)
    return "; ".join(
        (f"channel {number}: " if channels[1:] else "")
        + f"clipped to {one.low:.6g} to {one.high:.6g}, "
        f"minus {one.shift:.6g}, times {one.scale:.6g}"
        for number, one in enumerate(channels)
    )


def _spacing(source):
    """The spacing of the training volumes, as far as it is known."""
    if trained := source.beside.get("spacing"):
        words = " × ".join(f"{number:.4g}" for number in trained)
        return f"{words}; resample volumes of another spacing to it, which segment.py does not"
    run = open_run(source.loaded.facts["workdir"])
    wanted, found = set(source.loaded.trained_on or ()), set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has said what it does not read
        for name in wanted & run.labelled.keys():
            try:
                found.add(open_image(run.labelled[name].image).spacing)
            except (ValueError, OSError):
                continue
    found.discard(None)
    if not found:
        return "not recorded"
    ends = [(min(axis), max(axis)) for axis in zip(*found, strict=True)]
    words = (f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in ends)
    return f"{' × '.join(words)}, in micrometres where the files name a unit; not resampled"


def _trained_on(source):
    split, fields = source.beside.get("split", {}), source.loaded.fields
    if not split:
        return "Trained on: not recorded."
    where = fields.get("data.root") or f"generated volumes ({fields.get('data.name')})"
    lines = [
        f"Data: {where}, fold {fields.get('data.fold')} of {fields.get('data.folds')} held out."
    ]
    for part, words in (("training", "Trained on"), ("validation", "Held out")):
        names = split.get(part, [])
        lines.append(f"- {words}: {len(names)} volumes: {', '.join(names) or 'none'}")
    if source.beside.get("before"):
        lines.append(
            "- It started from weights that were trained before, on "
            + ", ".join(
                f"{'unknown' if one['training'] is None else len(one['training'])} volumes of "
                f"{one['data'].get('data.root') or 'an unknown place'}"
                for one in source.beside["before"]
            )
        )
    return "\n".join(lines)


def _scores(source):
    """The scores of these very weights, and on what they were measured."""
    facts = source.loaded.facts
    run = open_run(facts["workdir"])
    scores = run.scores.get(facts["weights"], {})
    if scores.get("step") != facts["step"]:
        return "Scores: these weights were not scored on whole volumes."
    on = judged.read(scores)
    of_class = scores.get("classes", {})
    mean = ", mean over classes" if of_class else ""
    rows = [(name + mean, scores[name]) for name in SHOWN if name in scores]
    rows += [(f"dice of {name}", one["dice"]) for name, one in of_class.items()]
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in rows)
    decided = f"of {MOST_PROBABLE}" if source.classes.exclusive else "at the threshold"
    return (
        f"Scores, pooled over whole {on.name()}s{on.choices}, {decided} and without "
        f"post-processing:\n\n| | |\n|---|---|\n{rows}\n\n"
        f"`judged_on`: {json.dumps(on.as_json())} {run.outdated_scores}".rstrip()
    )
