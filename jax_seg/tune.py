"""Choose the post-processing of a run by its score on held-out volumes.

python -m jax_seg.tune WORKDIR

The probabilities come from WORKDIR/validation and the labels from the run's configuration, unless
--probabilities and --labels name others. The results are written to WORKDIR/tune/report.json and,
for `jax_seg.predict`, to WORKDIR/postprocess.json. Run the same command to resume a search that
stopped. The probabilities of a run that holds out nothing are refused; if others are of volumes
that the network was trained on, the output says so. With --workers or --scheduler, processes of
Dask compute the scores; the results are the same.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import choice, scoring, search
from jax_seg.runs import tuning_volumes
from jax_seg.runs.run import open_run
from jax_seg.system import engine, outputs
from jax_seg.system.commands import exit_status, report_errors
from jax_seg.system.files import write_json
from jax_seg.system.program import program
from jax_seg.tasks import judged, sources

SHOWN = ("dice", "iou", "precision", "recall")
STEPS = "steps"  # what is chosen on the volumes that are searched


def tune(
    workdir,
    *,
    probabilities=None,
    labels=None,
    images=None,
    metric="competition",
    candidates=search.CANDIDATES,
    hold_out=(),
    force=False,
    workers=None,
    scheduler=None,
):
    """Tune a run, print the results, write `tune/report.json` and `postprocess.json`.

    Args:
      workdir: folder of the run.
      probabilities, labels, images: of `find`.
      metric: key of `scoring.METRICS`.
      candidates: steps to search over.
      hold_out: ids of volumes to exclude from the search.
      force: do not refuse steps that the guard finds harmful.
      workers, scheduler: who computes the scores, of `engine.opener`.

    Returns:
      ([error of each volume that was skipped], number of all).

    Raises:
      ValueError, OSError: nothing can be tuned.
    """
    report, chosen_steps = workdir / "tune" / "report.json", workdir / "postprocess.json"
    for path in (report, chosen_steps):
        outputs.require_file(path, "tune", flag="WORKDIR")
    open_engine = engine.opener(workers, scheduler)
    run = open_run(workdir, required=False)
    volumes, errors, table = _readable(run, probabilities, labels, images)
    without_image = [name for name, paths in volumes.items() if not paths.image]
    if without_image:
        print(f"Skipping the step mask_empty: no image of {', '.join(without_image)}.")
    candidates = _possible(candidates, without_image)
    folds = tuning_volumes.folds(list(volumes.values()), hold_out)
    names = folds[0][0] if hold_out else list(volumes)
    read = tuning_volumes.Volumes(volumes, table)
    results = scoring.Results(workdir / "tune" / "results.jsonl")
    content = _begun(run, metric, {name: volumes[name] for name in names}, errors)
    rests_on = {name: (paths.image, paths.label) for name, paths in volumes.items()}
    content["sources"] = sources.record(rests_on)  # of those that were not searched on, too
    _print_trained_on(volumes)
    content |= choice.sweeps(read, names)
    _print_sweeps(content)
    own = _possible(_own_steps(run.fields), without_image)
    with open_engine(scoring.work(read, metric)) as scores:
        if workers or scheduler:
            print(f"\nScoring on {scores.where}.", flush=True)
        score = scoring.make_scorer(read, metric, results, scores, report=_progress)
        content |= choice.choose(score, names, candidates, force)
        content |= choice.worth(score, names, content["ablation"][-1]["steps"])
        _print_search(content)
        content["own"] = {"steps": own, "score": _mean(score(names, [own])[own])}
        content["held_out"] = []
        for searched, scored in folds:
            rows = content if hold_out else choice.choose(score, searched, candidates, force)
            steps = rows["ablation"][-1]["steps"]
            content["held_out"] += _beside_own(score, scored, own, steps, volumes)
    write_json(report, outputs.marked(content, "tune"))
    write_json(chosen_steps, outputs.marked(_decide(content, workdir), "tune"))
    return list(errors.values()), len(errors) + len(volumes)


def _begun(run, metric, searched, errors):
    """The content of report.json before the search; `searched` is {id: Paths}."""
    on = judged.weakest(paths.judged_on for paths in searched.values())
    return {
        "metric": metric,
        "volumes": list(searched),
        "judged_on": on.choosing(STEPS).as_json(),
        "errors": errors,
        "checkpoint_step": run.validation.get("step"),
    }


def _readable(run, probabilities, labels, images):
    """({id: Paths} of the volumes that can be scored, {id: error}, table of `label_table`).

    Raises:
      ValueError, OSError: of `tuning_volumes.find`, or no volume can be scored.
    """
    found, errors, table = tuning_volumes.find(run, probabilities, labels, images)
    volumes = {}
    for paths in found:
        try:
            tuning_volumes.read_volume(paths, table)
            volumes[paths.id] = paths
        except (ValueError, OSError) as error:
            errors[paths.id] = str(error)
    if not volumes:
        raise ValueError(f"No volume can be scored: {' '.join(errors.values())}")
    return volumes, errors, table


def _possible(steps, without_image):
    """`steps`, without mask_empty if images are missing."""
    if not without_image:
        return tuple(steps)
    return tuple(step for step in steps if postprocess.parse(step)[0] != "mask_empty")


def _beside_own(score, names, own, steps, volumes):
    """Rows of report.json: volumes that were not searched on, by the run's own and tuned steps."""
    both = score(names, list(dict.fromkeys([own, steps])))
    return [
        {"volume": name, "baseline": before, "score": after, "steps": steps}
        | volumes[name].judged_on.as_json()
        for name, before, after in zip(names, both[own], both[steps], strict=True)
    ]


def _own_steps(fields):
    """What predictions of the run pass through as long as nothing is tuned."""
    threshold = fields.get("validate.threshold", 0.5)
    return tuple(postprocess.after_threshold(fields.get("postprocess.steps", ()), threshold))


def _decide(content, workdir):
    """The content of `postprocess.json`: tuned steps only if they help on other volumes."""
    rows, not_searched, metric = content["ablation"], content["held_out"], content["metric"]
    steps, score, baseline = rows[-1]["steps"], rows[-1]["score"], content["own"]["score"]
    on = judged.read(content["judged_on"])
    if not_searched:
        baseline, score = (
            _mean([row[key] for row in not_searched]) for key in ("baseline", "score")
        )
        on = judged.weakest(map(judged.read, not_searched))
        print(f"\n{on.name().capitalize()}s that were not searched on, by {metric}")
        _row("", ["untuned", "tuned", "gain"])
        mean = {"volume": "mean", "baseline": baseline, "score": score, "steps": ()}
        for row in (*not_searched, mean):
            before, after = row["baseline"], row["score"]
            cells = [f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"]
            _row(row["volume"], [*cells, " ".join(row["steps"])])
    else:
        print(
            f"\nThere is only one {on.mark()}: this gain is on the volume searched and may not "
            "generalise."
        )
    if score <= baseline:
        steps, score = content["own"]["steps"], baseline
        print(f"The tuned steps do not help; keeping {' '.join(steps)}.")
    print(f"\nSteps for predictions, in {workdir / 'postprocess.json'}: {' '.join(steps)}")
    return {
        "steps": steps,
        "metric": metric,
        "score": score,
        "baseline": baseline,
        "judged_on": on.as_json(),
        "checkpoint_step": content["checkpoint_step"],
        "volumes": content["volumes"],
        "sources": content["sources"],
    }


def _print_trained_on(volumes):
    if names := judged.seen({name: paths.judged_on for name, paths in volumes.items()}):
        print(
            f"The network was trained on {', '.join(names)}: its probabilities there are more "
            "confident than elsewhere, so thresholds and steps may not suit other volumes.\n"
        )


def _print_sweeps(content):
    noun = judged.read(content["judged_on"]).mark()
    print(f"All labelled voxels of {len(content['volumes'])} {noun}s")
    _row("threshold", SHOWN)
    rows = content["thresholds"]
    best = max(rows, key=lambda row: row["dice"])
    for row in rows:
        if row is not best and round(100 * row["threshold"]) % 10:
            continue
        remark = ["best Dice"] if row is best else []
        _row(f"{row['threshold']:.2f}", [*(f"{row[key]:.4f}" for key in SHOWN), *remark])
    best = max(content["hysteresis"], key=lambda row: row["dice"])
    cells = [*(f"{best[key]:.4f}" for key in SHOWN), "best hysteresis"]
    _row(f"{best['low']:.2f} to {best['high']:.2f}", cells)
    curve = content["calibration"]
    print(f"\nCalibration: expected error {curve['expected_calibration_error']:.4f}")
    _row("probability", ["voxels", "mean", "foreground"])
    for row in curve["bins"]:
        cells = [row["voxels"], f"{row['probability']:.4f}", f"{row['foreground']:.4f}"]
        _row(f"{row['low']:.2f} to {row['high']:.2f}", cells)


def _print_search(content):
    print(f"\nSteps that cost a perfect prediction more than {search.GUARD} of {content['metric']}")
    harmful = [row for row in content["guard"] if row["cost"] > search.GUARD]
    for row in harmful:
        _row(row["step"], [f"{row['cost']:.4f}", "refused" if row["refused"] else "forced"])
    if not harmful:
        print("none")
    noun = judged.read(content["judged_on"]).mark()
    print(f"\nSearch on the {noun}s {', '.join(content['volumes'])} by {content['metric']}")
    for row in content["ablation"]:
        _row(row["step"], [f"{row['score']:.4f}", f"{row['gain']:+.4f}"])
    for row in content["without"]:
        loss = content["ablation"][-1]["score"] - row["score"]
        _row(f"without {row['step']}", [f"{row['score']:.4f}", f"{-loss:+.4f}"])
    print(f"These steps cost a perfect prediction {content['cost_on_labels']:.4f}.")


def _row(name, cells):
    print("  ".join([f"{name:46}", *(f"{cell:>9}" for cell in cells)]), flush=True)


def _progress(line):
    if sys.stderr.isatty():
        print(f"\r{line:60}\r", end="", file=sys.stderr, flush=True)


def _mean(values):
    return float(np.mean(values))


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("tune"),
        description="Choose the post-processing of a run by its score on held-out volumes.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="folder of the training run")
    parser.add_argument(
        "--probabilities", type=Path, help="folder of predicted probabilities (default: the run's)"
    )
    parser.add_argument(
        "--labels", type=Path, help="folder of labels with the same names (default: the run's)"
    )
    parser.add_argument(
        "--images", type=Path, help="folder of images for the step mask_empty; requires --labels"
    )
    parser.add_argument(
        "--metric",
        default="competition",
        choices=scoring.METRICS,
        help="score to optimise (default: competition)",
    )
    parser.add_argument(
        "--steps", nargs="+", help="steps to search over (default: a built-in list)"
    )
    parser.add_argument(
        "--hold_out",
        nargs="+",
        default=(),
        metavar="ID",
        help="ids of volumes to exclude from the search and to score it on",
    )
    parser.add_argument(
        "--force", action="store_true", help="allow steps that harm a perfect prediction"
    )
    parser.add_argument(
        "--workers",
        type=engine.count,
        help="score on this many processes, each with its share of the processors (Dask)",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="score on the workers of this Dask scheduler"
    )
    arguments = vars(parser.parse_args(argv))
    steps = arguments.pop("steps")
    return exit_status(lambda: _tune(arguments, steps), "run the same command to resume the search")


def _tune(arguments, steps):
    if steps:
        arguments["candidates"] = _candidates(steps)
    return report_errors(*tune(**arguments), "volumes")


def _candidates(steps):
    for step in steps:
        if postprocess.parse(step)[0] in postprocess.FIRST:
            raise ValueError(
                f"--steps names '{step}', but every threshold and hysteresis is searched anyway: "
                "remove it."
            )
    return tuple(steps)


if __name__ == "__main__":
    sys.exit(main())
