"""What a run came to, in words: a headline and the remarks that follow from its figures."""

import itertools
from typing import NamedTuple

import numpy as np

from jax_seg.metrics import balance, comparison
from jax_seg.runs.run import confusions, noun
from jax_seg.tasks.judged import TRAINING, UNKNOWN

MANY_CLIPPED = 0.5  # share of updates
FAR_OFF = 0.25  # of the labelled foreground, predicted too much or too little
LAST_PART = 0.25  # of the epochs, in which a run that still improves is unfinished


class Remark(NamedTuple):
    """A sentence; `kind` is 'good', 'bad' or 'plain'."""

    kind: str
    text: str


def headline(runs):
    """One or two sentences on a run, or on which of several is best.

    Runs that are judged on volumes that they were trained on have no rank.

    Args:
      runs: list of `runs.run.Run`, at least one.
    """
    if len(runs) == 1:
        return _of_one(runs[0])
    finished = [run for run in runs if "raw" in run.scores]
    if not finished:
        return f"None of the {len(runs)} runs has finished, so there is nothing to compare yet."
    if len(finished) == 1:
        return f"Only {finished[0].name} has finished. {_of_one(finished[0])}"
    seen = [run for run in finished if run.judged_on.volumes == TRAINING]
    told = "".join(f" {one.name} has no rank: {_why_not(one)}." for one in seen)
    ranked = [run for run in finished if run.judged_on.volumes != TRAINING]
    if not ranked:
        return (
            f"Each of the {len(finished)} finished runs is judged on {noun(runs)}s that it was "
            "trained on, which does not tell which is better."
        )
    return (_of_one(ranked[0]) if len(ranked) == 1 else _of_best(ranked)) + told


def _why_not(run):
    return f"its Dice {_dice(run):.3f} is that of {run.judged_on.name(run.noun)}s"


def _of_best(runs):
    """Which of several runs, of which none saw its validation volumes, is best."""
    best, second = sorted(runs, key=_dice, reverse=True)[:2]
    on = f"on {best.judged_on.name(best.noun)}s{best.judged_on.choices}"
    told = (
        f"{best.name} scores highest: Dice {_dice(best):.3f} {on}, "
        f"{_dice(best) - _dice(second):.3f} above {second.name}"
    )
    if best.volumes.keys() != second.volumes.keys():
        return (
            f"{told}. Their held-out {best.noun}s differ, so this compares those as well as runs."
        )
    count = len(best.volumes)
    better = sum(best.volumes[i]["dice"] > second.volumes[i]["dice"] for i in best.volumes)
    return f"{told}, and better on {better} of {count} {best.noun}s." if count else f"{told}."


def comparisons(runs):
    """Sentences on which pairs of runs with the same held-out volumes differ by more than chance.

    The p-values of all pairs are adjusted together, see `metrics.comparison`. Runs that were
    trained on these volumes are not compared.
    """
    pairs, found = [], []
    scored = [run for run in runs if run.volumes]
    seen = [run for run in scored if run.judged_on.volumes == TRAINING]
    unseen = [run for run in scored if run.judged_on.volumes != TRAINING]
    for first, second in itertools.combinations(unseen, 2):
        if first.volumes.keys() == second.volumes.keys():
            scores = ([r.volumes[i]["dice"] for i in first.volumes] for r in (first, second))
            pairs.append((first, second))
            found.append(comparison.compare(*scores))
    p_values, told = comparison.adjusted([one.p_value for one in found]), []
    for (first, second), one, p_value in zip(pairs, found, p_values, strict=True):
        names = first.name, second.name
        verdict = comparison.verdict(*names, one, p_value, pairs=len(pairs), noun=noun(runs))
        chose = first.judged_on.chose and second.judged_on.chose
        chose = f"; these {noun(runs)}s chose the checkpoint of both" if chose else ""
        told.append(f"By Dice, {verdict}{chose}.")
    if len(scored) > 1:
        told += [f"{run.name} is not compared: {_why_not(run)}." for run in seen]
    return told


def remarks(run):
    """List of Remark on one run, the most important first."""
    return [
        *_on_balance(run),
        *_on_volumes(run),
        *_on_learning(run),
        *_on_other_weights(run),
        *_on_decisions(run),
        *_on_clipping(run),
    ]


def _dice(run):
    return run.scores["raw"]["dice"]


def _of_one(run):
    if "raw" in run.scores:
        raw, on = run.scores["raw"], run.judged_on
        noun = on.name(run.noun) if run.of_images else f"whole {on.name()}"
        count = len(run.volumes)
        volumes = {0: f"{noun}s", 1: f"one {noun}"}.get(count, f"{count} {noun}s")
        worth = {
            TRAINING: f", which says nothing about other {run.noun}s",
            UNKNOWN: ", on which it may have been trained",
        }.get(on.volumes, on.choices)
        return (
            f"Dice {raw['dice']:.3f} on {volumes}{worth}: it finds {_percent(raw['recall'])} of "
            f"the labelled foreground, and {_percent(raw['precision'])} of what it predicts is "
            "right."
        )
    trained, judged = run.of_kind("train"), run.of_kind("validation")
    if not trained:
        return "Nothing has been trained here yet."
    told = (
        f"Not finished: {len(trained)} of {run.setting('train.epochs', 'an unknown number of')} "
        "epochs are done"
    )
    if judged:
        told += f", with a validation loss of {judged[-1]['loss']:.3f}{_on_training(run)}"
    return told + f"; whole {run.noun}s are scored when the run ends."


def _on_balance(run):
    if not run.volumes:
        return []
    found, told = balance_of(run)
    (amount,), (verdict, *accuracy) = told["amount"], told["constants"]
    pooled, better = found["pooled"], found["better_than_constants"]
    far_off = abs(pooled["predicted"] - pooled["labelled"]) > FAR_OFF * pooled["labelled"]
    return [
        Remark("good" if better else "bad", verdict),
        *(Remark("plain" if better else "bad", text) for text in accuracy),
        Remark("bad" if far_off else "plain", amount),
    ]


def balance_of(run):
    """(`balance.class_balance` of a run's validation volumes, its `balance.remarks`)."""
    target = run.setting("validate.background_target") or None
    noun = run.judged_on.mark(run.noun)
    found = balance.class_balance(confusions(run), target, noun=noun)
    return found, balance.remarks(found, noun)


def _on_training(run):
    """' on training volumes' where the run is judged on volumes that it was trained on, else ''."""
    training = run.judged_on.volumes == TRAINING
    return f" on {run.judged_on.name(run.noun)}s" if training else ""


def _on_volumes(run):
    if len(run.volumes) < 2:
        return []
    ordered = sorted(run.volumes, key=lambda name: run.volumes[name]["dice"])
    worst, best = (run.volumes[name]["dice"] for name in (ordered[0], ordered[-1]))
    median = float(np.median([scores["dice"] for scores in run.volumes.values()]))
    return [
        Remark(
            "bad" if worst < 0.5 * median else "plain",
            f"The worst {run.judged_on.mark(run.noun)} is {ordered[0]} with Dice {worst:.3f}; the "
            f"median is {median:.3f}, the best {best:.3f}.",
        )
    ]


def _on_learning(run):
    first = _first_of_last_stage(run)
    judged = [e for e in run.of_kind("validation") if e["epoch"] >= first]
    if len(judged) < 4:
        return []
    losses = np.array([e["loss"] for e in judged])
    best = int(losses.argmin())
    if run.judged_on.volumes == TRAINING:
        return [
            Remark(
                "plain",
                f"The loss{_on_training(run)} was lowest in epoch {judged[best]['epoch']}, "
                f"{losses[best]:.3f}; nothing is held out, so over-fitting cannot be seen.",
            )
        ]
    noise = judged[best].get("standard_error", 0.0)
    told = f"Validation loss was lowest in epoch {judged[best]['epoch']}, {losses[best]:.3f}"
    train_loss = {e["epoch"]: e["loss"] for e in run.of_kind("train")}
    fell = train_loss.get(judged[-1]["epoch"], 0) < train_loss.get(judged[best]["epoch"], 0)
    if losses[-1] - losses[best] > noise and fell:
        return [
            Remark(
                "bad",
                f"{told}, and rose to {losses[-1]:.3f} while the training loss kept falling: "
                "it over-fits.",
            )
        ]
    if losses[-1] - losses[best] > noise:
        return [
            Remark(
                "bad", f"{told}, and {losses[-1]:.3f} at the end: it got worse, in training too."
            )
        ]
    last_part = max(int(LAST_PART * len(losses)), 1)
    gained = losses[:-last_part].min() - losses[best]
    if gained > noise:
        return [
            Remark(
                "bad", f"{told}, and was still falling at the end: it may gain from more epochs."
            )
        ]
    return [
        Remark(
            "good",
            f"{told}; over the last {last_part} of {len(losses)} epochs it fell by no more than "
            f"its standard error, {noise:.3f}: it has levelled off.",
        )
    ]


def _first_of_last_stage(run):
    """The first epoch whose losses compare with the last one's: stages may change the weights."""
    stages = run.setting("stages") or {}
    return max((stage["epochs"][0] for stage in stages.values()), default=0)


def _on_other_weights(run):
    found = []
    for name, scores in run.scores.items():
        if name == "raw" or "raw" not in run.scores:
            continue
        difference = scores["dice"] - _dice(run)
        told = f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"
        if abs(difference) < 0.0005:
            told = "as good as"
        what = "Post-processing" if name == "postprocessed" else f"The {name.upper()} average"
        text = f"{what} has Dice {scores['dice']:.3f}{_on_training(run)}, {told} the raw weights"
        if run.judged_on.chose and not scores.get("chose", ["checkpoint"]):
            text += f", whose checkpoint these {run.noun}s chose."
        else:
            text += " alone."
        found.append(Remark("plain", text))
    return found


def _on_decisions(run):
    kinds = [event["decision"]["kind"] for event in run.of_kind("decision")]
    told = [
        f"{kinds.count(kind)} {name}{'s' if kinds.count(kind) > 1 else ''}"
        for kind, name in (("intervention", "intervention"), ("rollback", "rollback"))
        if kind in kinds
    ]
    if "early_stop" in kinds:
        told.append("an early stop")
    return [Remark("plain", f"The course was corrected: {', '.join(told)}.")] if told else []


def _on_clipping(run):
    shares = [e["clipped_share"] for e in run.of_kind("train") if "clipped_share" in e]
    if not shares or np.mean(shares) < MANY_CLIPPED:
        return []
    return [
        Remark(
            "plain",
            f"{_percent(float(np.mean(shares)))} of the updates were clipped to the gradient norm "
            f"{run.setting('optimizer.clip_norm')}: the clipping, not the rate, sets their length.",
        )
    ]


def _percent(share):
    return f"{100 * share:.1f} %"
