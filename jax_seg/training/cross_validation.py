"""Cross-validation: train one run per fold, which holds that fold out, and summarise them."""

import contextlib
from pathlib import Path

import numpy as np

from jax_seg.runs.run import with_classes
from jax_seg.runs.workdir import require_summary, require_workdir
from jax_seg.system import engine, processes
from jax_seg.system.files import locked, read_json, remove_unfinished_beside, write_json
from jax_seg.tasks import judged
from jax_seg.training import run as training


def run(config, workdir, defaults=None, doctor=None, opening=(), open_engine=None):
    """Train all folds in `workdir/fold_0`, `fold_1`, …, or resume.

    A fold can also be trained by a separate process, with --config.data.fold=2 and --workdir
    WORKDIR/fold_2; finished folds are not trained again.

    Args:
      config: ConfigDict; data.folds is their number.
      workdir: folder for all of them.
      defaults, doctor, opening: of `run.run`.
      open_engine: of `engine.opener`, whose workers train folds side by side, each on a device of
        its own; None trains them one after another in this process.

    Returns:
      {score: {'mean', 'std'}} over folds, of the raw weights; written with the scores of the folds
      and of every volume, each held out once, as `workdir/summary.json`.

    Raises:
      As `training.run`.
    """
    require_workdir(workdir, config)
    workdir = Path(workdir)
    require_summary(workdir / "summary.json")
    with locked(workdir) if processes.leads() else contextlib.nullcontext():
        if processes.leads():
            remove_unfinished_beside(workdir / "summary.json")
        folds, volumes = _run(config, workdir, (defaults, doctor, opening), open_engine)
        if processes.leads():
            _summarise(folds, volumes, workdir)
        return summarise(list(folds.values()))


def _run(config, workdir, shared, open_engine):
    """({fold: its scores}, {volume: its scores}) of all folds."""
    calls = {}
    for fold in range(config.data.folds):
        one = config.copy_and_resolve_references()
        one.data.fold = str(fold)
        one.data.cache = one.data.cache or str(workdir / "cache")  # decoded once for all folds
        calls[f"fold_{fold}"] = one, workdir / f"fold_{fold}", *shared
    folds = dict(_side_by_side(calls, open_engine) if open_engine else _in_turn(calls))
    folds = {name: folds[name] for name in calls}
    volumes = {}
    for name in folds:
        volumes |= read_json(workdir / name / "validation" / "scores.json")["volumes"]
    return folds, volumes


def _in_turn(calls):
    for number, (name, arguments) in enumerate(calls.items()):
        if processes.leads():
            minutes = arguments[0].train.minutes
            each = f", each of {minutes:g} minutes" if minutes else ""
            print(f"Fold {number} of {len(calls)}{each}: {arguments[1]}", flush=True)
        yield name, training.run(*arguments)


def _side_by_side(calls, open_engine):
    for name, scores in engine.each(training.run, calls, open_engine):
        print(f"{calls[name][1]}: Dice {scores['dice']:.4f}", flush=True)
        yield name, scores


def _summarise(folds, volumes, workdir):
    """Write `summary.json` and print it."""
    summary = summarise(list(folds.values()))
    parts = {name: judged.read(scores) for name, scores in folds.items()}
    on = judged.weakest(parts.values())
    content = {"summary": summary, "judged_on": on.as_json(), "folds": folds, "volumes": volumes}
    write_json(workdir / "summary.json", content)
    if seen := [name for name, part in parts.items() if part.volumes == judged.TRAINING]:
        print(f"These folds are scored on volumes that they were trained on: {', '.join(seen)}.")
    else:
        print(f"Each fold is scored on its {on.name()}s{on.choices}.")
    for score, values in summary.items():
        print(f"{score:22} {values['mean']:.4f} ± {values['std']:.4f} over {len(folds)} folds")


def summarise(folds):
    """Mean and standard deviation (of a sample) of every score over the folds' dicts.

    Of several classes, also of the Dice of each.
    """
    folds = [with_classes(fold) for fold in folds]
    return {
        score: {
            "mean": float(np.mean([fold[score] for fold in folds])),
            "std": float(np.std([fold[score] for fold in folds], ddof=1)),
        }
        for score, value in folds[0].items()
        if score != "step" and not isinstance(value, str | list | bool)
    }
