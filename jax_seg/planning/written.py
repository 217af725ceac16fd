"""A plan in words, as a configuration file, and as JSON."""

import json
import textwrap
from pathlib import Path

import numpy as np

from jax_seg.planning.rules import Decision
from jax_seg.system import config_file, configuration
from jax_seg.system.outputs import written_by

HEAD = '''"""{name}: planned for {root} on {device}, {mark}.

    python launch.py --config {path}

{facts}
"""

{imports}


def get_config(arg=""):
    config = {start}.get_config({argument})
'''
WIDTH = 98


def facts_in_words(facts):
    """The facts of some data as one sentence."""
    shape = "×".join(str(int(n)) for n in np.median(facts.shapes, 0))
    scrolls = f" of {facts.groups} scrolls" if facts.groups < len(facts.shapes) else ""
    spacing = "the files state no spacing"
    if facts.spacing:
        # Micrometres where the files name a unit; tables and JSON files name none.
        spacing = "spacing " + "×".join(f"{n:.4g}" for n in facts.spacing)
        spacing += ", not the same in all" if facts.spacings_differ else ""
    depth = f"a step along depth equals {facts.anisotropy:.1f} in the plane"
    if f"{facts.anisotropy:.1f}" == "1.0":
        depth = "steps along depth and in the plane are equal"
    labelled = f"{100 * facts.unlabelled:.1f} % is unlabelled"
    if facts.unlabelled == 0:
        labelled = "everything is labelled"
    where = "in the middle of a volume" if facts.cropped else "a volume"
    pieces = f"in {_count(round(facts.pieces), 'piece')} {where}"
    if facts.pieces > 1:
        pieces += f", the largest with {100 * facts.largest:.0f} % of it"
    return (
        f"{_count(len(facts.shapes), 'volume')}{scrolls}, {shape} voxels (median) of "
        f"{facts.dtype}; {spacing}; {depth}; foreground is {100 * facts.foreground:.1f} % of what "
        f"is labelled, {facts.thickness:.1f} voxels thick, {pieces}; {labelled}."
    )


def _count(number, noun):
    return f"{number} {noun}{'s' * (number != 1)}"


def in_words(plan):
    """Lines: the facts, then each decision with its reason."""
    lines = textwrap.wrap(facts_in_words(plan.facts), WIDTH)
    for one in plan.decisions:
        values = ", ".join(f"{path}={value!r}" for path, value in one.fields.items())
        lines.append("")
        lines += textwrap.wrap(f"{one.topic}: {one.reason}.", WIDTH)
        lines += textwrap.wrap(
            values, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
    return lines


def as_file(plan, *, path, root, given, base):
    """The text of a configuration file that carries a plan.

    Args:
      plan: Plan.
      path: of the file.
      root: of the data.
      given: {dotted path: value} that the user has set.
      base: path of the configuration that the plan starts from, as 'configs/base.py': fields that
        have its values are omitted, but for those of labels.

    Raises:
      ValueError: the names of that file and its folder cannot be written in a program.
    """
    defaults = configuration.flat(config_file.load(base))
    file, _, argument = str(base).partition(":")
    start, folder = Path(file).stem, Path(file).absolute().parent.name
    if not (start.isidentifier() and folder.isidentifier()):
        raise ValueError(
            f"--base {base} cannot be imported by name: give the file and its folder names of "
            "letters, digits and underscores."
        )
    facts = "\n".join(textwrap.wrap(facts_in_words(plan.facts), WIDTH))
    text = HEAD.format(
        name=path.stem,
        root=root,
        device=plan.device,
        mark=written_by("plan"),
        path=path,
        facts=facts,
        imports="\n".join(sorted({"from configs import base", f"from {folder} import {start}"})),
        start=start,
        argument=repr(argument) if argument else "",
    )
    chosen = [
        Decision("as given", {"data.root": root, "data.name": "folder", **given}, ""),
        *plan.decisions,
    ]
    for one in chosen:
        reason = f"{one.topic}: {one.reason}" if one.reason else one.topic
        always = one.topic == "labels"  # what is unlabelled is said, never assumed
        differing = {p: v for p, v in one.fields.items() if always or defaults.get(p) != v}
        if not differing:
            continue
        comment = textwrap.wrap(
            f"{reason[0].upper()}{reason[1:]}.",
            WIDTH,
            initial_indent="    # ",
            subsequent_indent="    # ",
        )
        text += "\n".join(comment) + "\n"
        for field, value in differing.items():
            shown = json.dumps(value) if isinstance(value, str) else repr(value)
            text += f"    config.{field} = {shown}\n"
    return text + "    return base.shrink(config, arg)\n"


def as_json(plan, given):
    """What a run keeps of its plan: {'facts', 'given', 'decisions'}, JSON types."""
    return {
        "facts": facts_in_words(plan.facts),
        "given": given,
        "decisions": [one._asdict() for one in plan.decisions],
    }
