"""Results of `jax_seg.tune` as HTML; '' where a run has none."""

from html import escape

from jax_seg.report import markup, sections
from jax_seg.report.markup import number, word
from jax_seg.tasks import judged


def thresholds(runs, drawn):
    """Threshold curves and calibration, or the command that computes them."""
    missing = "".join(
        f'<p class="missing">{escape(run.name)} has no threshold sweep, calibration or '
        f"post-processing{_how_to_tune(run)}</p>"
        for run in runs
        if run.volumes and not run.tuned and run.kind.TUNABLE
    )
    measured = "".join(
        f"<p>The curves of {escape(run.name)} are measured on {_volumes(run.tuned)}.</p>"
        for run in runs
        if run.tuned
    )
    return measured + sections.charted("thresholds", drawn) + missing


def _how_to_tune(run):
    if run.judged_on.volumes == judged.TRAINING:
        return (
            ", and holds out no volume to compute them on: predict other labelled volumes with "
            f"{markup.code('--probabilities')}, then pass both folders to "
            f"{markup.code('python -m jax_seg.tune')}."
        )
    return f" yet: run {markup.code(f'python -m jax_seg.tune {run.workdir}')}."


def steps(runs):
    """The gain of each post-processing step."""
    tuned = [(c, run) for c, run in enumerate(runs) if (run.tuned or {}).get("ablation")]
    parts = [
        f"<div>{markup.heading(runs, color)}{_ablation(run.tuned)}{_chosen(run)}</div>"
        for color, run in tuned
    ]
    return f'<div class="columns">{"".join(parts)}</div>' if parts else ""


def _ablation(found):
    metric, rows = found["metric"], found["ablation"]
    most = max([row["gain"] for row in rows if row["gain"] > 0], default=1.0)
    parts = [
        "<p>Each row adds one step to those above it. The steps were chosen on "
        f"{_volumes(found)} by the metric “{escape(metric)}”.</p>",
        markup.table(
            [
                *markup.word_heads("Step"),
                *markup.number_heads("Score", "Gain"),
                *markup.word_heads(""),
            ],
            [
                [
                    markup.code_cell(row["step"]),
                    number(f"{row['score']:.4f}"),
                    number(f"{row['gain']:+.4f}"),
                    markup.strip(row["gain"] / most),
                ]
                for row in rows
            ],
        ),
    ]
    if rows := found.get("held_out"):
        on = judged.weakest(map(judged.read, rows))
        choices = " and the ".join(on.chose)
        chose = f"; all of them were used to choose the {choices}" if on.chose else ""
        parts.append(
            f"<h4>On {on.mark()}s held out of the search</h4>"
            f"<p>Each is scored with the steps chosen on the others{chose}.</p>"
        )
        cells = [
            [
                word(row["volume"]),
                number(f"{row['baseline']:.4f}"),
                number(f"{row['score']:.4f}"),
                number(f"{row['score'] - row['baseline']:+.4f}"),
                markup.code_cell("  ".join(row["steps"])),
            ]
            for row in rows
        ]
        means = [sum(row[key] for row in rows) / len(rows) for key in ("baseline", "score")]
        texts = [f"{means[0]:.4f}", f"{means[1]:.4f}", f"{means[1] - means[0]:+.4f}"]
        cells.append([word("mean"), *(number(text, kind="best") for text in texts), word("")])
        heads = [
            *markup.word_heads("Volume"),
            *markup.number_heads("Untuned", "Tuned", "Gain"),
            *markup.word_heads("Steps"),
        ]
        parts.append(markup.table(heads, cells))
    if refused := [row["step"] for row in found.get("guard", []) if row["refused"]]:
        names = f"<p>{', '.join(map(markup.code, refused))}</p>"
        parts.append(
            markup.details(
                f"Rejected because they degrade a perfect prediction: {len(refused)}", names
            )
        )
    return "".join(parts)


def _chosen(run):
    if not run.chosen:
        return ""
    names = ", ".join(map(markup.code, run.chosen["steps"]))
    return f"<p><b>Predictions of this run use</b> {names}.</p>"


def _volumes(found):
    """'one volume', '3 held-out volumes': those used for the search."""
    count, noun = len(found["volumes"]), judged.read(found.get("judged_on", {})).name()
    return f"one {noun}" if count == 1 else f"{count} {noun}s"
