"""Draw docs/rooms.svg, the rooms of jax_seg and what they import:  python docs/rooms.py

A room is a folder of jax_seg, the commands are the modules beside them. An arrow that follows from
others is not drawn: training imports report and report imports runs, so training may import runs.
"""

import ast
import graphlib
import itertools
import random
import textwrap
from itertools import permutations
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "jax_seg"
COMMANDS, LAUNCH = "commands", "launch.py"
WIDTH, LINE, MARGIN = 218, 15, 24  # pixels: of a box, between lines of text, around the picture
GAP, DEPTH = 24, 46  # pixels between boxes, and between rows
LETTERS = 32  # on a line of a box
STARTS = 12  # orders of the rows from which one with few crossings is looked for
STYLE = """
  .paper { fill: #ffffff } .box { fill: #eef3f9; stroke: #7d93ad }
  .top { fill: #fdf3e3; stroke: #b99b64 } .arrow { fill: none; stroke: #5d6f84; stroke-width: 1.4 }
  .head { fill: #5d6f84 } .name { font-weight: 600; font-size: 15px; fill: #14202e }
  .words { font-size: 11.5px; fill: #34465a }
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #12181f } .box { fill: #1e2a38; stroke: #5b7592 }
    .top { fill: #33291a; stroke: #a58a55 } .arrow { stroke: #93a8c0 } .head { fill: #93a8c0 }
    .name { fill: #e9f0f8 } .words { fill: #b7c6d6 }
  }
"""


class Import(NamedTuple):
    """An import of one module of the package by another, or by `launch.py`.

    Attributes:
      file: Path of the importer.
      line: in it.
      source, target: the rooms, or COMMANDS or LAUNCH.
      module: dotted name of what is imported.
    """

    file: Path
    line: int
    source: str
    target: str
    module: str


def rooms(root=ROOT):
    """The names of the folders of the package, sorted."""
    return sorted(path.parent.name for path in (root / PACKAGE).glob("*/__init__.py"))


def commands(root=ROOT):
    """The names of what a user runs: the modules beside the rooms, and rooms with a `__main__`."""
    package = root / PACKAGE
    modules = [path.stem for path in package.glob("*.py") if not path.stem.startswith("__")]
    return sorted([*modules, *(path.parent.name for path in package.glob("*/__main__.py"))])


def imports(root=ROOT):
    """Every `Import` of the package, those within functions as well, in the order of the files."""
    package, found = root / PACKAGE, []
    for file in [*sorted(package.rglob("*.py")), root / "launch.py"]:
        source = _room(file, package)
        for line, module in imported(file):
            parts = module.split(".")
            if parts[0] == PACKAGE and len(parts) > 1:
                target = parts[1] if (package / parts[1]).is_dir() else COMMANDS
                found.append(Import(file, line, source, target, module))
    return found


def imported(file):
    """(line, dotted name) of everything that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def _room(file, package):
    if not file.is_relative_to(package):
        return LAUNCH
    parts = file.relative_to(package).parts
    return parts[0] if len(parts) > 1 else COMMANDS


def graph(root=ROOT):
    """{room, COMMANDS or LAUNCH: set of rooms that it imports}."""
    found = {name: set() for name in (LAUNCH, COMMANDS, *rooms(root))}
    for one in imports(root):
        if one.source != one.target:
            found[one.source].add(one.target)
    return found


def circle(found):
    """Rooms that import each other, as ['tasks', 'training', 'tasks']; [] where none do."""
    try:
        graphlib.TopologicalSorter(found).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def reduced(found):
    """The edges (importer, imported) of a graph without circles that no longer way implies."""
    reach = {}
    for name in graphlib.TopologicalSorter(found).static_order():
        reach[name] = set(found[name]).union(*(reach[below] for below in found[name]))
    return [
        (name, below)
        for name, direct in found.items()
        for below in sorted(direct)
        if not any(below in reach[other] for other in direct)
    ]


def layers(edges, names):
    """Rows from the top, with the pieces of arrows that cross them.

    Returns:
      (rows, chains): lists of names or pieces (importer, imported, row), each row sorted so that
      few arrows cross; and for each edge what its arrow passes through, from end to end.
    """
    depth = dict.fromkeys(names, 0)
    for _ in names:  # the longest way from the top
        for above, below in edges:
            depth[below] = max(depth[below], depth[above] + 1)
    chains = [
        [above, *((above, below, row) for row in range(depth[above] + 1, depth[below])), below]
        for above, below in edges
    ]
    row_of = depth | {piece: piece[2] for chain in chains for piece in chain[1:-1]}
    links = [link for chain in chains for link in itertools.pairwise(chain)]
    found = []
    for start in range(STARTS):
        items = sorted(row_of, key=str)
        random.Random(start).shuffle(items)
        rows = [[i for i in items if row_of[i] == row] for row in range(max(row_of.values()) + 1)]
        found.append(_sorted(rows, links))
    return min(found, key=lambda rows: (_total(rows, links), str(rows))), chains


def _sorted(rows, links):
    """The rows, each in the order that suits the rows beside it, until none changes."""
    while True:
        before = list(rows)
        for row in (*range(len(rows)), *reversed(range(len(rows)))):
            tried = ([*rows[:row], list(o), *rows[row + 1 :]] for o in permutations(rows[row]))
            rows = min(tried, key=lambda rows, row=row: (_cost(rows, row, links), str(rows[row])))
        if _total(rows, links) >= _total(before, links):
            return before


def _total(rows, links):
    costs = [_cost(rows, row, links) for row in range(len(rows))]
    return tuple(map(sum, zip(*costs, strict=True)))


def _cost(rows, row, links):
    """Crossings of a row's links to the rows beside it, then how far they lead sideways."""
    place = {
        item: (number, position - (len(items) - 1) / 2)
        for number, items in enumerate(rows)
        for position, item in enumerate(items)
    }
    spans = [(place[a], place[b]) for a, b in links if row in (place[a][0], place[b][0])]
    crossings = sum(
        a[0] == c[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0
        for (a, b), (c, d) in itertools.combinations(spans, 2)
    )
    return crossings, sum(abs(a[1] - b[1]) for a, b in spans)


def positions(rows, chains, wide):
    """{item: x of its middle}: near to what it is linked with, apart from others by GAP.

    Args:
      rows, chains: of `layers`.
      wide: item -> pixels.
    """
    links = [link for chain in chains for link in itertools.pairwise(chain)]
    beside = {item: [] for row in rows for item in row}
    for above, below in links:
        beside[above].append(below)
        beside[below].append(above)
    x = {item: 0.0 for row in rows for item in row}
    for _ in range(60):
        for row in rows:
            wanted = {i: sum(x[b] for b in beside[i]) / max(len(beside[i]), 1) for i in row}
            x |= _apart(row, wanted, wide)
    left = min(x[item] - wide(item) / 2 for item in x)
    return {item: round(value - left) + MARGIN for item, value in x.items()}


def _apart(row, wanted, wide):
    """The positions nearest to `wanted`, in their order, that keep items of a row apart."""
    offsets, total = {}, 0.0
    for before, item in itertools.pairwise((None, *row)):
        total += (wide(before) + wide(item)) / 2 + GAP if before is not None else 0.0
        offsets[item] = total
    blocks = []  # of items that touch: [items, mean of their positions without the offsets]
    for item in row:
        blocks.append([[item], wanted[item] - offsets[item]])
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            items, mean = blocks.pop()
            first, before = blocks[-1]
            both = [*first, *items]
            mean = (len(first) * before + len(items) * mean) / len(both)
            blocks[-1] = [both, mean]
    return {item: mean + offsets[item] for items, mean in blocks for item in items}


def words(name, root=ROOT):
    """What a box says below its name: the first sentence of a room, or the commands."""
    if name == LAUNCH:
        return "Flags, devices, processes; then one call: training.run."
    if name == COMMANDS:
        return ", ".join(commands(root))
    text = ast.get_docstring(ast.parse((root / PACKAGE / name / "__init__.py").read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."


def picture(root=ROOT):
    """The picture as SVG.

    Raises:
      ValueError: rooms import each other in a circle.
    """
    found = graph(root)
    if around := circle(found):
        raise ValueError(f"Rooms import each other in a circle: {' → '.join(around)}.")
    rows, chains = layers(reduced(found), list(found))
    text = {name: textwrap.wrap(words(name, root), LETTERS) for name in found}
    x = positions(rows, chains, lambda item: WIDTH if item in found else LINE)
    tall = {name: 34 + LINE * len(lines) for name, lines in text.items()}
    tops = list(
        itertools.accumulate(
            (max(tall.get(item, 0) for item in row) + DEPTH for row in rows), initial=MARGIN
        )
    )
    at = {item: (x[item], tops[number]) for number, row in enumerate(rows) for item in row}
    width = max(place[0] for place in at.values()) + WIDTH // 2 + MARGIN
    height = tops[-1] - DEPTH + MARGIN
    row_height = {item: max(tall.get(i, 0) for i in row) for row in rows for item in row}
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            "<title>The rooms of jax_seg; an arrow points to what a room imports</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height}" rx="10"/>',
            '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker>',
            *_arrows(chains, at, tall, row_height),
            *(_box(name, at[name], tall[name], text[name]) for name in found),
            "</svg>\n",
        ]
    )


def _arrows(chains, at, tall, row_height):
    """One path each; those that share a box leave and arrive side by side."""
    sides = {}
    for number, chain in enumerate(chains):
        sides.setdefault((chain[0], "from"), []).append((at[chain[1]][0], number))
        sides.setdefault((chain[-1], "to"), []).append((at[chain[-2]][0], number))
    shift = {}
    for (name, end), ways in sides.items():
        step = min(34, (WIDTH - 40) / len(ways))
        for place, (_, number) in enumerate(sorted(ways)):
            shift[number, end] = at[name][0] + step * (place - (len(ways) - 1) / 2)
    for number, chain in enumerate(chains):
        here = (shift[number, "from"], at[chain[0]][1] + tall[chain[0]])
        path = f"M{here[0]:.0f} {here[1]}"
        for item in chain[1:]:
            x = at[item][0] if item in chain[1:-1] else shift[number, "to"]
            middle = (here[1] + at[item][1]) / 2
            path += f"C{here[0]:.0f} {middle:.0f} {x:.0f} {middle:.0f} {x:.0f} {at[item][1]}"
            here = (x, at[item][1] + row_height[item])
            if item in chain[1:-1]:
                path += f"V{here[1]}"
        yield f'<path class="arrow" marker-end="url(#head)" d="{path}"/>'


def _box(name, place, height, lines):
    x, top = place
    kind = "box top" if name in (COMMANDS, LAUNCH) else "box"
    title = name if name in (COMMANDS, LAUNCH) else f"{name}/"
    return "".join(
        [
            f'<rect class="{kind}" x="{x - WIDTH // 2}" y="{top}" width="{WIDTH}" '
            f'height="{height}" rx="7"/>',
            f'<text class="name" x="{x}" y="{top + 21}" text-anchor="middle">{title}</text>',
            *(
                f'<text class="words" x="{x}" y="{top + 38 + LINE * number}" '
                f'text-anchor="middle">{escape(line)}</text>'
                for number, line in enumerate(lines)
            ),
        ]
    )


if __name__ == "__main__":
    (ROOT / "docs" / "rooms.svg").write_text(picture())
