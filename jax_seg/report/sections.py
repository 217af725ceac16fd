"""The sections of the page, as HTML; '' where a run has nothing to show."""

from html import escape
from importlib import resources

from jax_seg.metrics.balance import CONSTANTS, SHOWN
from jax_seg.report import charts, markup, milestones
from jax_seg.report import verdict as judgement
from jax_seg.report.markup import number, percent, plain, sentence, swatch, word
from jax_seg.runs import run as opened
from jax_seg.system import configuration
from jax_seg.tasks.judged import TRAINING

SCORES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "accuracy": "Accuracy",
}
EXTRA = {
    "labelled": "Labelled voxels",
    "s": "S",
    "e_adaptive": "Adaptive E",
    "weighted_f": "Weighted F",
    "mae": "MAE",
}
SHARES = {
    "foreground_predicted": "Foreground predicted",
    "foreground_label": "Foreground labelled",
}
LOCATION = ("data.root", "data.cache", "data.threads", "data.cache_gb", "checkpoint")


def verdict(runs, problems):
    """The headline, the key figures of a single run, and remarks on each.

    Args:
      runs: list of `runs.run.Run`.
      problems: sentences about what cannot be shown.
    """
    names = " · ".join(f"<b>{escape(run.name)}</b>" for run in runs)
    parts = [f'<p class="runs">{names}</p>', f"<h1>{sentence(judgement.headline(runs))}</h1>"]
    if len(runs) == 1:
        parts.append(_tiles(runs[0]))
    parts.append(f'<div class="remarks runs-{min(len(runs), 3)}">')
    for color, run in enumerate(runs):
        found = [(r.text, r.kind) for r in judgement.remarks(run)]
        found += [(text, "bad") for text in (run.outdated_scores, run.outdated_steps) if text]
        missing = [*run.missing, *(problems if color == 0 else [])]
        found += [(text, "missing") for text in missing]
        heading = markup.heading(runs, color)
        parts.append(f"<div>{heading}{markup.items(*zip(*found, strict=True)) if found else ''}")
        parts.append("</div>")
    return "".join([*parts, "</div>"])


def _tiles(run):
    raw, trained = run.scores.get("raw"), run.of_kind("train")
    tiles = {}
    if raw:
        tiles |= {name: f"{raw[key]:.3f}" for key, name in SCORES.items()}
        excess = 100 * (raw["foreground_predicted"] - raw["foreground_label"])
        tiles["Foreground, predicted − labelled"] = f"{excess:+.1f} points"
        tiles["Evaluated on"] = f"{run.judged_on.name(run.noun)}s"
    if trained:
        planned = run.setting("train.epochs")
        tiles["Epochs"] = f"{len(trained)}" + (f" of {planned}" if planned else "")
        speeds = sorted(e["patches_per_second"] for e in trained if "patches_per_second" in e)
        if speeds:
            tiles[f"{charts.samples([run]).capitalize()} per second"] = (
                f"{speeds[len(speeds) // 2]:.1f}"
            )
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in tiles.items()
    )
    return f'<dl class="tiles">{cells}</dl>' if tiles else ""


def comparison(runs):
    """Scores of several runs and their averages, and which differences exceed chance.

    A score on training volumes is never marked as the best.
    """
    if len(runs) < 2:
        return ""
    scored = [(c, run, w, s) for c, run in enumerate(runs) for w, s in run.scores.items()]
    unseen = [s for _, run, _, s in scored if run.judged_on.volumes != TRAINING]
    best = {key: max((s[key] for s in unseen), default=None) for key in SCORES}
    rows = [
        [
            word(run.name, swatch(color)),
            word(weights),
            number(str(scores.get("step", "")), scores.get("step", "")),
            word(f"{run.judged_on.name(run.noun)}s"),
            *(
                number(f"{scores[key]:.4f}", scores[key], "best" * _is_best(run, scores, best, key))
                for key in SCORES
            ),
            *(number(percent(scores[key]), scores[key]) for key in SHARES),
        ]
        for color, run, weights, scores in scored
    ]
    heads = [
        *markup.word_heads("Run", "Weights"),
        *markup.number_heads("Step"),
        *markup.word_heads("Evaluated on"),
    ]
    heads += markup.number_heads(*SCORES.values(), *SHARES.values())
    sentences = judgement.comparisons(runs)
    return (markup.table(heads, rows, sortable=True) if rows else "") + (
        f'<div class="comparisons">{markup.items(sentences)}</div>' if sentences else ""
    )


def _is_best(run, scores, best, key):
    return run.judged_on.volumes != TRAINING and scores[key] == best[key]


def _differences(runs):
    fields = [configuration.flat(run.config) for run in runs]
    rows = []
    for path in sorted({path for flat in fields for path in flat}):
        values = [flat.get(path, "absent") for flat in fields]
        if all(value == values[0] for value in values) or path.startswith(LOCATION):
            continue
        rows.append([markup.code_cell(path), *(markup.code_cell(plain(v)) for v in values)])
    if not rows:
        return "<p>The configurations differ at most in paths, cache and checkpoint settings.</p>"
    heads = markup.word_heads("Field", *(run.name for run in runs))
    return "<h3>Differences</h3>" + markup.table(heads, rows)


def slices(volumes):
    """The viewer; volumes of `views.views`."""
    if not volumes:
        return ""
    return resources.files("jax_seg.report").joinpath("viewer.html").read_text("utf-8")


def volume_table(runs, viewable):
    """The scores of every validation volume, worst first; `viewable` ids have slices."""
    scored = [(c, run, i, s) for c, run in enumerate(runs) for i, s in run.volumes.items()]
    if not scored:
        return ""
    known = SCORES | SHARES
    extra = list(dict.fromkeys(key for *_, s in scored for key in s if key not in known))
    rows = []
    for color, run, name, scores in sorted(scored, key=lambda one: one[3]["dice"]):
        excess = 100 * (scores["foreground_predicted"] - scores["foreground_label"])
        rows.append(
            [
                *([word(run.name, swatch(color))] if len(runs) > 1 else []),
                word(name, button=name in viewable),
                *(
                    number(f"{scores[key]:.4f}", scores[key], "bar" * (key == "dice"))
                    for key in SCORES
                ),
                *(number(percent(scores[key]), scores[key]) for key in SHARES),
                number(f"{excess:+.2f}", excess),
                *(number(plain(scores.get(key, "")), scores.get(key, "")) for key in extra),
            ]
        )
    heads = markup.word_heads(*["Run"][: len(runs) - 1], opened.noun(runs).capitalize())
    heads += markup.number_heads(
        *known.values(), "Difference, points", *(EXTRA.get(key, key) for key in extra)
    )
    warnings = "".join(
        f" {escape(run.name)} was trained on these {run.noun}s."
        for run in runs
        if run.volumes and run.judged_on.volumes == TRAINING
    )
    hint = f"<p>Worst first; click a heading to sort by its column.{warnings}</p>"
    return hint + markup.table(heads, rows, sortable=True, sorted_by="Dice")


def learning(runs, drawn):
    """The learning curves, and a table of the events marked above them."""
    rows = [
        [
            *([word(run.name, swatch(color))] if len(runs) > 1 else []),
            number(str(mark["x"])),
            word(mark["name"]),
        ]
        for color, run in enumerate(runs)
        for mark in milestones.marks(run, color)
    ]
    heads = [
        *markup.word_heads(*["Run"][: len(runs) - 1]),
        *markup.number_heads("Epoch"),
        *markup.word_heads("Event"),
    ]
    events = markup.details("Events", markup.table(heads, rows)) if rows else ""
    return charted("learning", drawn) + events


def balance(runs, drawn):
    """Predicted against labelled foreground, and the model beside the two constant predictors."""
    parts, compared = [], [key for key in SCORES if key in SHOWN]
    for color, run in enumerate(runs):
        if not run.volumes:
            continue
        found, _ = judgement.balance_of(run)
        rows = [
            [
                word(name),
                word(over),
                *(number(f"{found['constants'][kind][predictor][key]:.4f}") for key in compared),
                number(percent(found["constants"][kind][predictor]["foreground_predicted"])),
            ]
            for kind, over in (("pooled", f"{run.kind.POINT}s"), ("mean", f"{run.noun}s"))
            for predictor, name in {"model": "the model", **CONSTANTS}.items()
        ]
        heads = markup.word_heads("Predictor", "Averaged over")
        heads += markup.number_heads(*(SCORES[key] for key in compared), "Foreground")
        table = markup.table(heads, rows)
        parts.append(
            f"<div>{markup.heading(runs, color)}{markup.items(found['remarks'])}{table}</div>"
        )
    if not parts:
        return ""
    words = f'<div class="columns">{"".join(parts)}</div>'
    return f'<div class="beside-{min(len(runs), 2)}">{words}{charted("foreground", drawn)}</div>'


def configurations(runs):
    """Differences between the runs, and every field of each."""
    parts = [_differences(runs)] if len(runs) > 1 else []
    for run in runs:
        rows = [
            f"<tr>{markup.code_cell(path)}{markup.code_cell(plain(value))}</tr>"
            for path, value in sorted(configuration.flat(run.config).items())
        ]
        if rows:
            fields = f'<div class="fields"><table><tbody>{"".join(rows)}</tbody></table></div>'
            parts.append(markup.details(f"{run.name}: all {len(rows)} fields", fields))
    return "".join(parts)


def charted(name, drawn):
    """The place of a group of charts with its key."""
    if not drawn[name]:
        return ""
    key = f'<div class="key" data-key="{name}"></div>'
    return f'{key}<div class="charts" data-charts="{name}"></div>'
