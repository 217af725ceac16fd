"""Test which of several models is better, and whether the difference is significant.

python -m jax_seg.compare runs/a runs/b runs/b@swa runs/b@12000 scores.json --metric dice

Each argument is a JSON file written by jax_seg.evaluate, a run (WORKDIR, WORKDIR@swa, WORKDIR@ema),
whose scores are read from WORKDIR/validation, one of its checkpoints (WORKDIR@STEP, @best, @latest)
or a file written by jax_seg.fit_ensemble. The last two kinds segment the run's held-out volumes
now, at the run's threshold and without post-processing.

A run trained on its own validation volumes is refused. If the volumes passed with --images were
used to train a model, or to choose its checkpoint or weights, every verdict says so.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.infer.files import FAILURES
from jax_seg.infer.logits import require_numbers
from jax_seg.metrics import segmentation
from jax_seg.metrics.comparison import adjusted, compare, interval, number, verdict
from jax_seg.metrics.competition import CompetitionScore
from jax_seg.ops.classes import masks_of
from jax_seg.runs import checkpoints, held_out, members, seen, together
from jax_seg.runs.data_folders import data_folders
from jax_seg.runs.run import open_run
from jax_seg.system import outputs, startup
from jax_seg.system.commands import exit_status, report_errors
from jax_seg.system.files import read_json, refuse_address, write_json
from jax_seg.system.program import program
from jax_seg.tasks import judged
from jax_seg.tasks.score_volumes import OVERLAP, score_volume

LOWER_IS_BETTER = ("loss", "surface_mean", "surface_95", "voi_split", "voi_merge")
NO_ORDER = ("_predicted", "_label")  # shares of foreground, and Betti numbers
THIN_FIELDS = ("cldice", "skeleton_precision", "skeleton_recall", "surface_mean", "surface_95")
DATA = (
    *judged.DATA,
    *(f"data.{name}" for name in ("foreground", "background", "ignore", "classes")),
)
COMPETITION_FIELDS = tuple(n for n in CompetitionScore.__dataclass_fields__ if n != "counts")


class Scored(NamedTuple):
    """A model's scores.

    Attributes:
      values: {volume id: float}.
      errors: {volume id: error}.
      judged_on: {volume id: JudgedOn}.
    """

    values: dict
    errors: dict
    judged_on: dict


def scores_of(source, metric, images=None, labels=None):
    """A model's score of every volume.

    Args:
      source: an argument of the command line.
      metric: name of a score.
      images, labels: folders of volumes to segment now, or None.

    Returns:
      Scored.

    Raises:
      FileNotFoundError, ValueError: the file, run, checkpoint or metric does not exist.
    """
    if Path(source).is_file():
        content = read_json(source)
        if "members" not in content:
            values = _pick(content.get("volumes"), metric, source)
            return Scored(values, {}, _noted(content, values))
        _warn(seen.outdated(source, "weights"))
        texts, weights = together.read_ensemble(source)
        fitted_to = content.get("fitted_to", [])
        return _segment_and_score(texts, weights, metric, images, labels, fitted_to, source)
    member = members.parse(source)
    if member.checkpoint or images:
        return _segment_and_score([member], None, metric, images, labels)
    return _stored_scores(source, member, metric)


def _stored_scores(source, member, metric):
    """The `Scored` stored in the folder of a run."""
    if not refuse_address(member.workdir).is_dir():
        raise FileNotFoundError(
            f"{source} does not exist: name a run, one of its checkpoints, or a file of scores."
        )
    run = open_run(member.workdir, required=False)
    on, path = run.judged_on, run.workdir / "validation" / "scores.json"
    held_out.refuse_seen(run.fields, member.workdir, on)
    _warn(run.outdated_scores)
    if not run.validation:
        raise FileNotFoundError(
            f"{path} does not exist: let the run finish, or name a checkpoint to segment now, such "
            f"as {member.workdir}@latest."
        )
    averages = run.validation.get("averages", {})
    if member.weights in ("", "raw"):
        values = _pick(run.volumes, metric, path)
    elif member.weights in averages:
        values, on = _pick(averages[member.weights], metric, path), on._replace(chose=())
    else:
        raise ValueError(
            f"{path} has no scores of the average '{member.weights}', which the run does not "
            f"keep: train another run with {checkpoints.AVERAGES[member.weights]}."
        )
    return Scored(values, {}, dict.fromkeys(values, on))


def _warn(sentence):
    if sentence:
        print(f"Warning: {sentence}", file=sys.stderr)


def _noted(content, names):
    """{id: JudgedOn} of a file of scores, per volume if stored so, else for the whole file."""
    together = content.get("judged_on", {})
    entries = {name: content["volumes"][name] for name in names}
    return {n: judged.read(one if "volumes" in one else together) for n, one in entries.items()}


def _runs_of(models):
    """The `Run` of every model and of every member of an ensemble, where its folder exists."""
    texts = []
    for model in models:
        of_file = Path(model).is_file()
        texts += read_json(model).get("members", []) if of_file else [model]
    return [open_run(members.parse(text).workdir, required=False) for text in texts]


def _note_other_data(models):
    """Say where runs name other data: volumes are matched by their ids alone."""
    runs = {m: members.parse(m).workdir for m in models if not Path(m).is_file()}
    given = [(model, open_run(workdir, required=False).fields) for model, workdir in runs.items()]
    for (one, ours), (other, theirs) in itertools.pairwise(given):
        if differing := [name for name in DATA if ours.get(name) != theirs.get(name)]:
            print(
                f"Note: {one} and {other} differ in {', '.join(differing)}, and volumes are "
                "matched by their ids: make sure that equal ids mean the same volumes."
            )


def _pick(volumes, metric, path):
    if not volumes or not isinstance(volumes, dict):
        raise ValueError(
            f"{path} holds no scores of volumes: name a file written by jax_seg.evaluate."
        )
    picked = {}
    for name, scores in volumes.items():
        value = scores.get(metric)
        if not isinstance(value, int | float) or not np.isfinite(value):
            known = ", ".join(k for k, v in scores.items() if isinstance(v, int | float))
            reason = f"is {value}" if metric in scores else f"is missing (available: {known})"
            raise ValueError(f"{path}: the {metric} of {name} {reason}; choose another --metric.")
        picked[name] = float(value)
    return picked


def _segment_and_score(texts, weights, metric, images, labels, fitted_to=(), ensemble=None):
    competition, thin = metric in COMPETITION_FIELDS, metric in THIN_FIELDS
    if not (competition or thin or metric in OVERLAP):
        known = ", ".join((*OVERLAP, *THIN_FIELDS, *COMPETITION_FIELDS))
        raise ValueError(f"There is no score {metric!r}: choose --metric from {known}.")
    segment, networks, _ = together.load(texts, weights)
    segment = together.at_its_spacing(segment, networks)
    if ensemble:
        together.require_fitted(ensemble, networks)
    advice = "predict with --threshold, then compare the scores of jax_seg.evaluate"
    threshold = together.agreed(
        "threshold", [network.fields["validate.threshold"] for network in networks], advice
    )
    table = together.label_table(networks)
    if len(table.classes.names) > 1 and metric not in OVERLAP:
        raise ValueError(
            f"--metric {metric} is of one class: choose one of {', '.join(OVERLAP)}, whose means "
            "over the classes are compared."
        )
    volumes = held_out.common_volumes(networks, images, labels)
    on = seen.by_any(networks, volumes)
    for name in on.keys() & set(fitted_to):
        on[name] = on[name].choosing("weights")
    scores, errors = {}, {}
    for volume in volumes:
        try:
            image, label = held_out.read_labelled(volume, table)
            logits = np.asarray(segment(volume, image))
            require_numbers(logits, volume.image)
        except FAILURES as error:
            errors[volume.id] = str(error)
            continue
        masks = np.asarray(masks_of(logits, table.classes, threshold))
        if masks.ndim > 3:
            found = segmentation.scores(segmentation.count(masks, label, table.classes))
        else:
            _, found = score_volume(np.uint8(masks), label, thin=thin, competition=competition)
        scores[volume.id] = float(found[metric])
        print(f"{volume.id}: {metric} {number(scores[volume.id])}", flush=True)
    return Scored(scores, errors, on)


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("compare"),
        description="Compare models volume by volume: means with confidence intervals, and a "
        "significance test of every pair.",
    )
    parser.add_argument(
        "models",
        nargs="+",
        help="models to compare: scores.json, WORKDIR, WORKDIR@swa, WORKDIR@STEP or ensemble.json",
    )
    parser.add_argument(
        "--metric",
        default="dice",
        help="score to compare by: any that jax_seg.evaluate writes (default: dice)",
    )
    held_out.add_flags(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the resamples (default: 0)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _compare(arguments))


def _compare(arguments):
    models, metric = arguments.models, arguments.metric
    if len(set(models)) < max(len(models), 2):
        raise ValueError("Name at least two models, each once.")
    inputs = held_out.given(arguments)
    if metric.endswith(NO_ORDER):
        raise ValueError(f"A higher {metric} is neither better nor worse: choose another --metric.")
    for run in _runs_of(models):
        inputs += data_folders(run.fields, run.workdir)
    outputs.require_file(arguments.output, "compare", inside=inputs)
    scored = {m: scores_of(m, metric, arguments.images, arguments.labels) for m in models}
    volumes = _in_common({model: one.values for model, one in scored.items()})
    _note_other_data(models)
    columns = {model: [one.values[v] for v in volumes] for model, one in scored.items()}
    on = {model: {v: one.judged_on[v] for v in volumes} for model, one in scored.items()}
    content = {"metric": metric, "volumes": volumes}
    content["models"] = _summarise(columns, on, metric, arguments.seed)
    content["pairs"] = _judge_pairs(columns, on, metric not in LOWER_IS_BETTER, arguments.seed)
    if arguments.output:
        write_json(arguments.output, outputs.marked(content, "compare"))
    errors = [f"{m}: {id}: {e}" for m, one in scored.items() for id, e in one.errors.items()]
    total = sum(len(one.values) + len(one.errors) for one in scored.values())
    return report_errors(errors, total, "volumes")


def _in_common(scores):
    """Sorted ids of the volumes for which every model has a score.

    Raises:
      ValueError: there is none.
    """
    volumes = sorted(set.intersection(*(set(values) for values in scores.values())))
    if not volumes:
        raise ValueError(
            "The models have no scored volume in common, so they cannot be compared: score them on "
            "the same volumes, for example with --images and --labels."
        )
    if skipped := sorted(set().union(*scores.values()) - set(volumes)):
        print(f"Skipping volumes that not every model has scored: {', '.join(skipped)}.")
    return volumes


def _summarise(columns, on, metric, seed):
    """Print and return each model's mean, interval and worst volume, and what it was judged on."""
    heading = f"{metric} of {len(next(iter(columns.values())))} volumes"
    width = max(map(len, (heading, *columns)))
    print(f"{heading:{width}}     mean   95 % interval      worst")
    summary = {}
    for model, values in columns.items():
        low, high = interval(values, seed)
        worst = max(values) if metric in LOWER_IS_BETTER else min(values)
        together = judged.weakest(on[model].values())
        summary[model] = {
            "mean": float(np.mean(values)),
            "low": low,
            "high": high,
            "worst": worst,
            "judged_on": together.as_json(),
        }
        note = "  training volumes" if together.volumes == judged.TRAINING else ""
        print(
            f"{model:{width}}  {number(np.mean(values)):>7}   {number(low)} to {number(high):8} "
            f"{number(worst):>8}{note}"
        )
    return summary


def _judge_pairs(columns, on, higher_is_better, seed):
    """Print and return the comparison of every pair of models, with a sentence on each."""
    pairs = list(itertools.combinations(columns, 2))
    found = [compare(columns[a], columns[b], seed) for a, b in pairs]
    p_values = adjusted([comparison.p_value for comparison in found])
    rows = []
    for (first, second), comparison, p_value in zip(pairs, found, p_values, strict=True):
        sentence = verdict(
            first,
            second,
            comparison,
            p_value,
            higher_is_better=higher_is_better,
            pairs=len(pairs),
        )
        sentence += "".join(_reservations({model: on[model] for model in (first, second)}))
        print(sentence)
        rows.append(
            {"first": first, "second": second, **comparison._asdict()}
            | {"adjusted_p_value": p_value, "sentence": sentence}
        )
    return rows


def _reservations(on):
    """Clauses that qualify a verdict: training volumes, and choices made on the same volumes.

    Args:
      on: {model: {volume id: JudgedOn}} of the two models.
    """
    trained, choosers = {}, {}
    for model, volumes in on.items():
        if names := judged.seen(volumes):
            which = "these volumes" if len(names) == len(volumes) else ", ".join(names)
            trained.setdefault(which, []).append(model)
        for choice in judged.weakest(volumes.values()).chose:
            choosers.setdefault(choice, []).append(model)
    for which, models in trained.items():
        yield f"; {' and '.join(models)} {'was' if len(models) == 1 else 'were'} trained on {which}"
    for choice, models in choosers.items():
        yield f"; these volumes chose the {choice} of {' and '.join(models)}"


if __name__ == "__main__":
    sys.exit(main())
