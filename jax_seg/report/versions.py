"""Results of several versions: a table, learning curves, and a verdict on each."""

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend without a screen
import numpy as np

from jax_seg.data.readers import open_volume
from jax_seg.losses import VARIANCE_FLOOR, variance_floor
from jax_seg.metrics import balance, comparison, segmentation
from jax_seg.ops.classes import FOREGROUND, MASKED
from jax_seg.report.verdict import on_training
from jax_seg.runs import held_out
from jax_seg.runs.run import open_run
from jax_seg.system.files import replacing
from jax_seg.system.outputs import written_by
from jax_seg.tasks import judged

PAGES = ("README.md", "curves.png")
"""What `write_page` writes."""
OVER_PREDICTION = 10.0  # percentage points that a verdict mentions


class Run(NamedTuple):
    """One finished run.

    Attributes:
      name, kind: of the version.
      epochs: trained.
      losses: validation loss of each epoch.
      variance: the variance term at the last epoch, None where it was not computed.
      interventions: their number.
      counts: {volume id: Confusion} with unlabelled voxels masked, whatever the run assumed.
      predicted, labelled: share of foreground among *all* voxels, as the run's own labels count it.
      failure: why it stopped, '' for a run that finished.
      judged_on: `JudgedOn` of its validation volumes.
      floor: of the variance term with the run's options.
    """

    name: str
    kind: str
    epochs: int
    losses: list
    variance: float | None
    interventions: int
    counts: dict
    predicted: float
    labelled: float
    failure: str = ""
    judged_on: judged.JudgedOn = judged.JudgedOn()
    floor: float = VARIANCE_FLOOR

    @property
    def title(self):
        """'v1, as run'."""
        return f"{self.name}, {self.kind}"

    @property
    def scores(self):
        """Pooled overlap scores."""
        return segmentation.scores(sum(self.counts.values()))


def read_run(workdir, name, kind, honest):
    """Read the results of a finished run.

    Args:
      workdir: its folder.
      name, kind: as in `Run`.
      honest: of `label_table`: what the labels mean, whatever the run assumed.

    Returns:
      Run.

    Raises:
      FileNotFoundError, ValueError: the run did not finish, or its data cannot be read.
    """
    workdir, run = Path(workdir), open_run(workdir)
    fields = run.fields
    volumes = held_out.labelled(fields, workdir)
    own = held_out.table_of(fields).together()
    counts, predicted, labelled, voxels = {}, 0, 0, 0
    for identifier in run.volumes:
        reader = open_volume(run.probabilities[identifier])
        prediction = reader.read((0, 0, 0), reader.shape) > fields["validate.threshold"]
        label = volumes[identifier].label
        counts[identifier] = segmentation.confusion(prediction, held_out.read_label(label, honest))
        as_taken = held_out.read_label(label, own)
        known = as_taken != MASKED
        predicted += np.count_nonzero(prediction & known)
        labelled += np.count_nonzero(as_taken == FOREGROUND)
        voxels += np.count_nonzero(known)
    shares, on = (predicted / voxels, labelled / voxels), run.judged_on
    target = fields.get("loss.variance_target_entropy")
    floor = VARIANCE_FLOOR if target is None else variance_floor(target)
    return Run(name, kind, *_history(run), counts, *shares, judged_on=on, floor=floor)


def diverged(workdir, name, kind, reason):
    """A run stopped by a non-finite loss or gradient."""
    run = open_run(workdir, required=False)
    return Run(name, kind, *_history(run), {}, 0.0, 0.0, reason)


def _history(run):
    events = run.events
    patches = [event for event in events if event["kind"] == "validation"]
    decided = [event["decision"]["kind"] for event in events if event["kind"] == "decision"]
    variance = patches[-1].get("variance") if patches else None
    losses = [event["loss"] for event in patches]
    return len(patches), losses, variance, decided.count("intervention")


def verdict(run, before):
    """One sentence on a run, with its evidence.

    Args:
      run: Run.
      before: the Run of the version before it, of the same kind; None for the first.
    """
    if run.failure:
        return f"Stopped: {run.failure}"
    found, parts = run.scores, []
    points = 100 * (run.predicted - run.labelled)
    if abs(points) > OVER_PREDICTION:
        parts.append(
            f"{'over' if points > 0 else 'under'}-predicts foreground by {abs(points):.0f} points"
        )
    constant = balance.constant_scores(run.counts.values())["pooled"]["all_foreground"]["dice"]
    if found["dice"] <= constant:
        parts.append(f"is no better by Dice than marking every voxel ({constant:.3f})")
    if run.variance is not None:
        above = run.variance - run.floor
        parts.append(f"its variance term is {above:.2f} above the floor of {run.floor:.2f}")
    best = int(np.argmin(run.losses))
    if best < len(run.losses) - 1:
        parts.append(f"its loss was lowest at epoch {best} of {run.epochs - 1}")
    unseen = judged.TRAINING not in (run.judged_on.volumes, before and before.judged_on.volumes)
    if before is not None and not before.failure and unseen:
        ids = sorted(run.counts)
        first, second = (
            [segmentation.scores(r.counts[i])["dice"] for i in ids] for r in (before, run)
        )
        compared = comparison.compare(first, second)
        parts.append(comparison.verdict(before.title, run.title, compared, compared.p_value))
    return "; ".join([f"Dice {found['dice']:.3f}{on_training(run.judged_on)}", *parts])


def conclusions(runs):
    """Sentences on all runs together: what they share, and what made a difference."""
    ended = [run for run in runs if not run.failure]
    found = []
    for kind in dict.fromkeys(run.kind for run in ended):
        of_kind = [run for run in ended if run.kind == kind]
        dice = [run.scores["dice"] for run in of_kind]
        most = max(of_kind, key=lambda run: run.predicted)
        on = next(filter(None, (on_training(run.judged_on) for run in of_kind)), "")
        found.append(
            f"{kind.capitalize()}: Dice from {min(dice):.3f} to {max(dice):.3f}{on}; the most "
            f"foreground is predicted by {most.name}, {100 * most.predicted:.1f} % where that run "
            f"takes {100 * most.labelled:.1f} % for labelled."
        )
    varied = [run for run in ended if run.variance is not None]
    if varied:
        variances = [run.variance for run in varied]
        found.append(
            f"The variance term ended between {min(variances):.3f} and {max(variances):.3f}; no "
            f"prediction brings it below {min(run.floor for run in varied):.3f}."
        )
    if ended:
        best = max(ended, key=lambda run: run.scores["dice"])
        on = on_training(best.judged_on)
        constant = balance.constant_scores(best.counts.values())["pooled"]["all_foreground"]["dice"]
        poor = [run.title for run in ended if run.scores["dice"] <= constant]
        highest = f"The best is {best.title}, with Dice {best.scores['dice']:.3f}{on}"
        found.append(
            f"{highest}. Marking every voxel scores {constant:.3f}, which {'; '.join(poor)} did "
            "not beat."
            if poor
            else f"{highest}; every run beat marking every voxel ({constant:.3f})."
        )
    return found


def write_page(runs, output, command):
    """Write `output/README.md` and the curves beside it.

    Args:
      runs: list of Run, in the order of the table.
      output: folder.
      command: the command that made the runs.
    """
    output = Path(output)
    page, curves = (output / name for name in PAGES)
    _draw_curves(runs, curves)
    lines = [
        f"<!-- {written_by('replay')} -->",
        "# Versions of the plan, on the same data",
        "",
        "```",
        command,
        "```",
        "",
        "Dice, precision and recall count labelled voxels alone, in every row; the two shares of "
        "foreground are counted as the run did: *as run* counts unlabelled voxels as foreground.",
        "",
        *(f"- {sentence}" for sentence in conclusions(runs)),
        "",
        "| version | epochs | best loss | Dice | precision | recall | predicted | labelled "
        "| variance term | interventions |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        if run.failure:
            lines.append(f"| {run.title} | {run.epochs} | stopped | | | | | | | |")
            continue
        found = run.scores
        variance = "off" if run.variance is None else f"{run.variance:.3f}"
        lines.append(
            f"| {run.title} | {run.epochs} | {min(run.losses):.4f} | {found['dice']:.3f} "
            f"| {found['precision']:.3f} | {found['recall']:.3f} | {100 * run.predicted:.1f} % "
            f"| {100 * run.labelled:.1f} % | {variance} | {run.interventions} |"
        )
    lines += ["", "![Validation loss of every version](curves.png)", "", "## Verdicts", ""]
    last = {}
    for run in runs:
        lines.append(f"- **{run.title}.** {verdict(run, last.get(run.kind))}.")
        last[run.kind] = run
    with replacing(page) as beside:
        beside.write_text("\n".join(lines) + "\n")


def _draw_curves(runs, path):
    kinds = list(dict.fromkeys(run.kind for run in runs))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(7 * len(kinds), 4.2), layout="constrained", squeeze=False
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        for run in runs:
            if run.kind == kind and run.losses:
                axis.plot(run.losses, ".-", label=run.name)
        axis.set(title=kind, xlabel="epoch", ylabel="validation loss, of the version's own weights")
        axis.grid(alpha=0.3)
        axis.legend()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=80, metadata={"Software": written_by("replay")})
    plt.close(figure)
