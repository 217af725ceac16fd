"""Small pieces of HTML; every text from outside is escaped here."""

import re
from html import escape


def table(heads, rows, *, sortable=False, sorted_by=None):
    """A table.

    Args:
      heads: [(heading, whether its column holds numbers)].
      rows: lists of cells, of `number`, `word` and `strip`.
      sortable: whether a click on a heading sorts by its column.
      sorted_by: the heading by which the rows are already sorted, ascending.
    """
    titles = []
    for name, of_numbers in heads:
        attributes = ' class="number"' if of_numbers else ""
        attributes += ' aria-sort="ascending"' if name == sorted_by else ""
        title = f'<button type="button">{escape(name)}</button>' if sortable else escape(name)
        titles.append(f"<th{attributes}>{title}</th>")
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="wide"><table{kind}><thead><tr>{"".join(titles)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def number(text, value="", kind=""):
    """A cell with a number; `value` is its sort key, `kind` is '', 'best' or 'bar'."""
    style = f' style="--share:{value:.3f}"' if kind == "bar" else ""
    value = escape(str(value))
    text = text.replace("-", "−")
    return f'<td class="number {kind}" data-value="{value}"{style}>{escape(text)}</td>'


def word(text, before="", button=False):
    """A cell with a text after the HTML `before`; with `button`, it opens the volume it names."""
    shown = escape(text)
    if button:
        shown = (
            f'<button type="button" data-look="{shown}" title="Show its slices">{shown}</button>'
        )
    return f'<td data-value="{escape(text)}">{before}{shown}</td>'


def word_heads(*names):
    """Headings of columns of words, for `table`."""
    return [(name, False) for name in names]


def number_heads(*names):
    """Headings of columns of numbers, for `table`."""
    return [(name, True) for name in names]


def heading(runs, color):
    """The run's name as the heading of its part of a section; '' where there is only one run."""
    return f"<h3>{swatch(color)}{escape(runs[color].name)}</h3>" if len(runs) > 1 else ""


def code_cell(text):
    """A cell with a name or value of a program."""
    return f"<td>{code(text)}</td>"


def strip(share):
    """A cell with a bar of the length `share`, from 0 to 1."""
    return f'<td class="strip"><i style="width:{100 * share:.1f}%"></i></td>'


def code(text):
    """A name or value of a program."""
    return f"<code>{escape(text)}</code>"


def items(texts, kinds=None):
    """A list of sentences, each with the class of its kind."""
    kinds = kinds or [""] * len(texts)
    lines = (f'<li class="{k}">{sentence(t)}</li>' for t, k in zip(texts, kinds, strict=True))
    return f"<ul>{''.join(lines)}</ul>"


def sentence(text):
    """An escaped text whose lines never break between a number and its percent sign."""
    return re.sub(r"(?<=\d) (?=%)", "\u00a0", escape(text))


def swatch(color):
    """A square in the colour of a run."""
    return f'<i class="swatch" style="background:var(--series-{color % 8})"></i>'


def details(summary, content):
    """Content that a click unfolds."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def percent(share):
    """0.1234 as '12.34 %'."""
    return f"{100 * share:.2f} %"


def plain(value):
    """A value of a configuration or a score as text."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
