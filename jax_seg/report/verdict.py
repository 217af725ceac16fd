"""A run's results in words: a headline, and remarks derived from its metrics."""

import itertools
from typing import NamedTuple

import numpy as np

from jax_seg.metrics import balance, comparison, curves
from jax_seg.runs.run import confusions, noun
from jax_seg.tasks.judged import TRAINING, UNKNOWN

FAR_OFF = 0.25  # error in the amount of foreground, as a share of the labelled


class Remark(NamedTuple):
    """A sentence; `kind` is 'good', 'bad' or 'plain'."""

    kind: str
    text: str


def headline(runs):
    """One or two sentences on a run, or on which of several is best.

    Runs evaluated on the volumes that they were trained on are not ranked.

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
    unranked = "".join(f" {run.name} is not ranked: {_why_not(run)}." for run in seen)
    ranked = [run for run in finished if run.judged_on.volumes != TRAINING]
    if not ranked:
        return (
            f"All {len(finished)} finished runs are evaluated on {noun(runs)}s that they were "
            "trained on, so they cannot be ranked."
        )
    return (_of_one(ranked[0]) if len(ranked) == 1 else _of_best(ranked)) + unranked


def _why_not(run):
    return f"its Dice {_dice(run):.3f} is on {run.judged_on.name(run.noun)}s"


def _of_best(runs):
    """Which of several runs, none trained on its validation volumes, is best."""
    best, second = sorted(runs, key=_dice, reverse=True)[:2]
    on = f"on {best.judged_on.name(best.noun)}s{best.judged_on.choices}"
    sentence = (
        f"{best.name} scores highest: Dice {_dice(best):.3f} {on}, "
        f"{_dice(best) - _dice(second):.3f} above {second.name}"
    )
    if best.volumes.keys() != second.volumes.keys():
        return (
            f"{sentence}. Their held-out {best.noun}s differ, so the difference may come from the "
            f"{best.noun}s rather than the runs."
        )
    count = len(best.volumes)
    better = sum(best.volumes[i]["dice"] > second.volumes[i]["dice"] for i in best.volumes)
    return (
        f"{sentence}, and better on {better} of {count} {best.noun}s." if count else f"{sentence}."
    )


def comparisons(runs):
    """Sentences on whether runs with the same held-out volumes differ by more than chance.

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
    p_values, sentences = comparison.adjusted([one.p_value for one in found]), []
    for (first, second), one, p_value in zip(pairs, found, p_values, strict=True):
        names = first.name, second.name
        verdict = comparison.verdict(*names, one, p_value, pairs=len(pairs), noun=noun(runs))
        chose = first.judged_on.chose and second.judged_on.chose
        chose = f"; both checkpoints were chosen on these {noun(runs)}s" if chose else ""
        sentences.append(f"By Dice, {verdict}{chose}.")
    if len(scored) > 1:
        sentences += [f"{run.name} is not compared: {_why_not(run)}." for run in seen]
    return sentences


def remarks(run):
    """List of Remark on one run, most important first."""
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
        noun = on.name(run.noun)
        if f"{run.noun}s" != run.kind.SAMPLES:  # scored in parts while it trained
            noun = f"whole {noun}"
        count = len(run.volumes)
        volumes = {0: f"{noun}s", 1: f"one {noun}"}.get(count, f"{count} {noun}s")
        worth = {
            TRAINING: f", which says nothing about other {run.noun}s",
            UNKNOWN: ", which it may have been trained on",
        }.get(on.volumes, on.choices)
        return (
            f"Dice {raw['dice']:.3f} on {volumes}{worth}: it finds {_percent(raw['recall'])} of "
            f"the labelled foreground, and {_percent(raw['precision'])} of the predicted "
            "foreground is correct."
        )
    trained, judged = run.of_kind("train"), run.of_kind("validation")
    if not trained:
        return "No epoch has finished yet."
    progress = (
        f"Not finished: {len(trained)} of {run.setting('train.epochs', 'an unknown number of')} "
        "epochs done"
    )
    if judged:
        progress += (
            f", validation loss {judged[-1]['loss']:.3f}{on_training(run.judged_on, run.noun)}"
        )
    return progress + f"; whole {run.noun}s are scored when the run ends."


def _on_balance(run):
    if not run.volumes:
        return []
    found, sentences = balance_of(run)
    (amount,), (verdict, *accuracy) = sentences["amount"], sentences["constants"]
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


def on_training(judged_on, noun="volume"):
    """' on training volumes' where a run is judged on volumes that it was trained on, else ''."""
    return f" on {judged_on.name(noun)}s" if judged_on.volumes == TRAINING else ""


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
    train, validation = (
        {event["epoch"]: event for event in run.of_kind(kind)} for kind in ("train", "validation")
    )
    found = curves.collected(train, validation, _first_of_last_stage(run))
    if len(found.epoch) < curves.FEWEST or not found.finite:
        return []
    best = int(found.validation.argmin())
    lowest = f"lowest in epoch {found.epoch[best]:g}, {found.validation[best]:.3f}"
    if run.judged_on.volumes == TRAINING:
        return [
            Remark(
                "plain",
                f"The loss{on_training(run.judged_on, run.noun)} was {lowest}; nothing is held "
                "out, so overfitting cannot be detected.",
            )
        ]
    kind, end = _how_it_ended(found)
    return [Remark(kind, f"Validation loss was {lowest}{end}")]


def _how_it_ended(found):
    """(kind, end of a sentence on the lowest loss) of `Curves`."""
    rise, fall = curves.rise(found), curves.fall(found)
    if rise and rise.overfits:
        end = f", and has risen by {rise.rose:.3f} while the training loss kept falling"
        return "bad", f"{end}: the run overfits."
    if rise and rise.diverges:
        end = f", and {found.validation[-1]:.3f} at the end"
        return "bad", f"{end}; the training loss did not fall either."
    if fall.clear and fall.rate_share >= curves.ANNEALED:
        return "bad", ", and was still falling at the end: more epochs may help."
    if fall.clear:
        return "plain", ", and fell until the learning rate reached its end."
    if fall.level:
        last = f"the last {fall.last} of {len(found.epoch)} epochs"
        return "good", f"; {last} lowered it by {max(fall.gained, 0):.3f}: it has levelled off."
    return "plain", f", and {found.validation[-1]:.3f} at the end."


def _first_of_last_stage(run):
    """The first epoch whose losses compare with the last one's: stages may change weights."""
    stages = run.setting("stages") or {}
    return max((stage["epochs"][0] for stage in stages.values()), default=0)


def _on_other_weights(run):
    found = []
    for name, scores in run.scores.items():
        if name == "raw" or "raw" not in run.scores:
            continue
        difference = scores["dice"] - _dice(run)
        compared = f"{abs(difference):.3f} {'above' if difference > 0 else 'below'}"
        if abs(difference) < 0.0005:
            compared = "equal to"
        what = "Post-processing" if name == "postprocessed" else f"The {name.upper()} average"
        text = (
            f"{what} has Dice {scores['dice']:.3f}{on_training(run.judged_on, run.noun)}, "
            f"{compared} the raw weights"
        )
        if run.judged_on.chose and not scores.get("chose", ["checkpoint"]):
            text += f", whose checkpoint was chosen on these {run.noun}s."
        else:
            text += "."
        found.append(Remark("plain", text))
    return found


def _on_decisions(run):
    kinds = [event["decision"]["kind"] for event in run.of_kind("decision")]
    corrections = [
        f"{kinds.count(kind)} {name}{'s' if kinds.count(kind) > 1 else ''}"
        for kind, name in (("intervention", "intervention"), ("rollback", "rollback"))
        if kind in kinds
    ]
    if "early_stop" in kinds:
        corrections.append("an early stop")
    if not corrections:
        return []
    return [Remark("plain", f"Corrections during training: {', '.join(corrections)}.")]


def _on_clipping(run):
    name, clip_norm = (run.setting(f"optimizer.{field}") for field in ("name", "clip_norm"))
    found = curves.clipping(run.of_kind("train"), name=name, clip_norm=clip_norm)
    if not found:
        return []
    return [
        Remark(
            "plain",
            f"In the last {curves.LAST} epochs {_percent(found.share)} of the updates were clipped "
            f"to the gradient norm {clip_norm:g}: clipping, not the learning rate, sets the step "
            "size.",
        )
    ]


def _percent(share):
    return f"{100 * share:.1f} %"
