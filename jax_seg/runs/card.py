"""The model card of an export: what a network is, what it was trained on, what its scores mean.

After Mitchell et al. 2019, "Model cards for model reporting", as far as a run records it.
"""

import hashlib
import importlib.metadata
import json
import warnings
from pathlib import Path

import jax

from jax_seg.data.preprocess import PerVolume
from jax_seg.data.readers import open_image
from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import read_steps
from jax_seg.runs import checkpoints
from jax_seg.runs.run import open_run
from jax_seg.tasks import judged

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
        "Use: `python load.py VOLUME.npy PROBABILITIES.npy` (numpy, jax and flatbuffers); "
        "model.json describes the files.",
        f"Code: jax_seg {checkpoints.code_version()}, "
        f"{importlib.metadata.metadata('jax-seg')['License-Expression']}. The licence of the code "
        "says nothing of the rights in the weights and in the volumes they were trained on.",
        f"This file was {mark}.",
    ]
    return "\n\n".join(parts) + "\n"


def threshold(sources):
    """The probability above which predict takes a voxel for foreground; None if they differ."""
    found = {_threshold(one) for one in sources}
    return found.pop() if len(found) == 1 else None


def configuration_digest(config):
    """Short digest of a stored configuration."""
    content = json.dumps(config, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _intent(sources):
    how = "The mean of several networks' probabilities" if sources[1:] else "A network"
    values = {_values(one.loaded.fields.get("data.foreground")) for one in sources} - {""}
    labelled = f", trained on label {' or '.join(sorted(values))}" if values else ""
    return (
        f"{how} that marks the foreground of 3-D volumes{labelled}. Input: a volume [D, H, W] of "
        "one channel, as stored. Output: the probability of the foreground in each voxel."
    )


def _values(label):
    return " ".join(map(str, label)) if isinstance(label, tuple | list) else str(label or "")


def _facts(source):
    facts, fields = source.loaded.facts, source.loaded.fields
    count = sum(leaf.size for leaf in jax.tree.leaves(source.variables["params"]))
    steps = list(_steps(source))
    if not (steps and postprocess.parse(steps[0])[0] in postprocess.FIRST):
        steps.insert(0, f"{fields['validate.threshold']:g}")
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
    return (
        f"clipped to {rule.low:.6g} to {rule.high:.6g}, minus {rule.shift:.6g}, times "
        f"{rule.scale:.6g}"
    )


def _spacing(source):
    """The spacing of the training volumes, as far as it is known."""
    if trained := source.beside.get("spacing"):
        words = " × ".join(f"{number:.4g}" for number in trained)
        return f"{words}; resample volumes of another spacing to it, which load.py does not"
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
    rows = "\n".join(f"| {name} | {scores[name]:.4f} |" for name in SHOWN if name in scores)
    return (
        f"Scores, pooled over whole {on.name()}s{on.choices}, at the threshold and without "
        f"post-processing:\n\n| | |\n|---|---|\n{rows}\n\n"
        f"`judged_on`: {json.dumps(on.as_json())} {run.outdated_scores}".rstrip()
    )
