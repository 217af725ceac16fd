"""One page on one run or several: a file that needs no network and no other file.

`sections` writes the words and tables, `charts` describes the charts and `views` the volumes; the
scripts beside this file draw those.
"""

import html
import json
import math
import re
from importlib import resources

from jax_seg.report import charts, markup, sections, tuning
from jax_seg.report.views import views
from jax_seg.runs import run as opened
from jax_seg.system.files import replacing
from jax_seg.system.outputs import written_by

ASSETS = {
    "style": "page.css",
    "charts": "charts.js",
    "viewer": "viewer.js",
    "script": "page.js",
}


def write_page(workdirs, output):
    """Write the report on some runs.

    Args:
      workdirs: folders of training runs, finished or not.
      output: path of the HTML file.

    Raises:
      FileNotFoundError, ValueError: a folder is no run, or a file in it is damaged.
    """
    text = make_page(opened.read_runs(workdirs))
    with replacing(output) as beside:
        beside.write_text(text, encoding="utf-8")


def make_page(runs):
    """The report on a list of `runs.run.Run` as one HTML text."""
    pictures, problems = views(runs)
    volumes, noun = pictures["volumes"], opened.noun(runs)
    drawn = {
        "learning": charts.learning(runs),
        "optimization": charts.optimization(runs),
        "foreground": charts.foreground(runs),
        "thresholds": charts.thresholds(runs),
    }
    written = {
        "Verdict": sections.verdict(runs, problems),
        "Runs side by side": sections.comparison(runs),
        "Slices": sections.slices(volumes),
        f"{noun.capitalize()} by {noun}": sections.volume_table(runs, {v["id"] for v in volumes}),
        "Learning": sections.learning(runs, drawn),
        "Optimization": sections.charted("optimization", drawn),
        "Class balance": sections.balance(runs, drawn),
        "Thresholds": tuning.thresholds(runs, drawn),
        "Post-processing": tuning.steps(runs),
        "Configuration": sections.configurations(runs),
    }
    written = {title: content for title, content in written.items() if content}
    anchors = {title: f"section-{number}" for number, title in enumerate(written)}
    assets = resources.files("jax_seg.report")
    parts = {name: assets.joinpath(file).read_text("utf-8") for name, file in ASSETS.items()}
    parts |= {
        "title": html.escape(f"Report: {', '.join(run.name for run in runs)}"),
        "navigation": "".join(f'<a href="#{a}">{title}</a>' for title, a in anchors.items()),
        "content": "".join(
            _section(title, anchors[title], content) for title, content in written.items()
        ),
        "footer": _footer(runs),
        "generator": written_by("report"),
        "data": as_script({"runs": [run.name for run in runs], "charts": drawn, "views": pictures}),
    }
    template = assets.joinpath("page.html").read_text("utf-8")
    # In one pass: what is put in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def as_script(data):
    """JSON that may stand inside a script element; numbers that are not finite become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _section(title, anchor, content):
    heading = "" if title == "Verdict" else f"<h2>{title}</h2>"
    return f'<section id="{anchor}" data-title="{title}">{heading}{content}</section>\n'


def _footer(runs):
    paths = ", ".join(markup.code(str(run.workdir)) for run in runs)
    return f"<p>Made by {markup.code('python -m jax_seg.report')} from {paths}.</p>"
