"""What came of several versions: a table, learning curves, and a verdict on each."""

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the choice of a backend without a screen
import numpy as np

from jax_seg.data.fingerprint import read_pair
from jax_seg.data.readers import open_volume
from jax_seg.losses import VARIANCE_FLOOR
from jax_seg.metrics import balance, comparison, segmentation
from jax_seg.runs import config as configuration
from jax_seg.runs.events import read_events
from jax_seg.system.files import read_json, replacing
from jax_seg.tasks.volumes import prepare_data

OVER_PREDICTION = 10.0  # percentage points that a verdict mentions


class Run(NamedTuple):
    """One finished run.

    Attributes:
      name, kind: of the version.
      epochs: trained.
      losses: validation loss of each epoch.
      variance: the variance term at the last epoch, None where it was not computed.
      interventions: their number.
      counts: {volume id: Confusion} with unlabeled voxels masked, whatever the run took them for.
      predicted, labelled: share of foreground among *all* voxels, as the run's own labels count it.
      failure: why it ended, '' for a run that ended well.
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

    @property
    def title(self):
        """'v1, as run'."""
        return f"{self.name}, {self.kind}"

    @property
    def scores(self):
        """Pooled overlap scores."""
        return segmentation.scores(sum(self.counts.values()))


def read_run(workdir, name, kind, honest):
    """What a finished run left behind.

    Args:
      workdir: its folder.
      name, kind: as in `Run`.
      honest: of `label_table`: what the labels mean, whatever the run took them for.
    """
    workdir = Path(workdir)
    stored = configuration.from_dict(read_json(workdir / "config.json"))
    read = configuration.Reader(stored)
    own = prepare_data(read, workdir)
    counts, predicted, labelled, voxels = {}, 0, 0, 0
    for volume in own.validation:
        reader = open_volume(workdir / "validation" / "probabilities" / f"{volume.id}.tif")
        prediction = reader.read((0, 0, 0), reader.shape) > read.validate.threshold
        _, truth = read_pair(volume, own.cache, honest)
        _, as_taken = read_pair(volume, own.cache, own.table)
        counts[volume.id] = segmentation.confusion(prediction, truth)
        known = as_taken != segmentation.UNLABELED
        predicted += np.count_nonzero(prediction & known)
        labelled += np.count_nonzero(as_taken == 1)
        voxels += np.count_nonzero(known)
    return Run(name, kind, *_history(workdir), counts, predicted / voxels, labelled / voxels)


def diverged(workdir, name, kind, reason):
    """A run that a loss or gradient without end stopped."""
    return Run(name, kind, *_history(workdir), {}, 0.0, 0.0, reason)


def _history(workdir):
    events = read_events(workdir)
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
        parts.append(f"is no better than marking every voxel ({constant:.3f})")
    if run.variance is not None:
        above = run.variance - VARIANCE_FLOOR
        parts.append(f"its variance term is {above:.2f} above the floor of {VARIANCE_FLOOR:.2f}")
    best = int(np.argmin(run.losses))
    if best < len(run.losses) - 1:
        parts.append(f"its loss was lowest at epoch {best} of {run.epochs - 1}")
    if before is not None and not before.failure:
        ids = sorted(run.counts)
        first, second = (
            [segmentation.scores(r.counts[i])["dice"] for i in ids] for r in (before, run)
        )
        compared = comparison.compare(first, second)
        parts.append(comparison.verdict(before.title, run.title, compared, compared.p_value))
    return (
        f"Dice {found['dice']:.3f}; " + "; ".join(parts) if parts else f"Dice {found['dice']:.3f}"
    )


def conclusions(runs):
    """Sentences on all runs together: what they shared, and what made a difference."""
    ended = [run for run in runs if not run.failure]
    found = []
    for kind in dict.fromkeys(run.kind for run in ended):
        of_kind = [run for run in ended if run.kind == kind]
        dice = [run.scores["dice"] for run in of_kind]
        most = max(of_kind, key=lambda run: run.predicted)
        found.append(
            f"{kind.capitalize()}: Dice from {min(dice):.3f} to {max(dice):.3f}; the most "
            f"foreground is predicted by {most.name}, {100 * most.predicted:.1f} % where that run "
            f"takes {100 * most.labelled:.1f} % for labelled."
        )
    variances = [run.variance for run in ended if run.variance is not None]
    if variances:
        found.append(
            f"The variance term ended between {min(variances):.3f} and {max(variances):.3f}; no "
            f"prediction brings it below {VARIANCE_FLOOR:.3f}."
        )
    if ended:
        best = max(ended, key=lambda run: run.scores["dice"])
        constant = balance.constant_scores(best.counts.values())["pooled"]["all_foreground"]["dice"]
        poor = [run.title for run in ended if run.scores["dice"] <= constant]
        found.append(
            f"The best is {best.title}, with Dice {best.scores['dice']:.3f}. Marking every voxel "
            f"scores {constant:.3f}, which {'; '.join(poor) or 'no run'} did not beat."
            if poor
            else f"The best is {best.title}, with Dice {best.scores['dice']:.3f}; every run beat "
            f"marking every voxel ({constant:.3f})."
        )
    return found


def write_page(runs, output, command):
    """Write `output/README.md` and the curves beside it.

    Args:
      runs: list of Run, in the order of the table.
      output: folder.
      command: that made them.
    """
    output = Path(output)
    _draw_curves(runs, output / "curves.png")
    lines = [
        "# Versions of the plan, on the same data",
        "",
        "```",
        command,
        "```",
        "",
        "Dice, precision and recall count labelled voxels alone, in every row; the two shares of "
        "foreground are what the run itself saw: *as run* takes unlabeled voxels for foreground.",
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
    with replacing(output / "README.md") as beside:
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
        figure.savefig(beside, dpi=80)
    plt.close(figure)
