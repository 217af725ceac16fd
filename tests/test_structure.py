"""The house in order: short functions, rooms that import downwards only, commands on top."""

import ast
import importlib.util
import re

import pytest

from jax_seg.__main__ import COMMANDS
from tests.conftest import ROOT

# Lowest first: a room imports itself and the rooms before it. Commands and launch.py import any.
ROOMS = (
    "system",
    "ops",
    "models",
    "losses",
    "metrics",
    "weights",
    "data",
    "infer",
    "tasks",
    "runs",
    "report",
    "training",
    "diagnosis",
    "planning",
)
PLACES = (ROOT, ROOT / "jax_seg")  # that the paths in docs/design.md start from
LONGEST = 80  # lines of a function
LONGEST_OF_THE_STORY = 60  # of a function of training/run.py


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawing = load(ROOT / "docs" / "rooms.py")


def functions(path):
    """(name, lines) of the functions and methods of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def place(path, line):
    return f"{path.relative_to(ROOT)}:{line}"


def test_functions_are_short():
    files = [*ROOT.glob("jax_seg/**/*.py"), *ROOT.glob("benchmarks/*.py"), ROOT / "launch.py"]
    found = [(lines, place(file, name)) for file in files for name, lines in functions(file)]
    assert len(found) > 500
    long = sorted(f"{where}: {lines} lines" for lines, where in found if lines > LONGEST)
    assert not long, "\n".join(long)


def test_the_story_is_told_in_short_functions():
    story = dict(functions(ROOT / "jax_seg" / "training" / "run.py"))
    assert "run" in story
    assert {name: n for name, n in story.items() if n >= LONGEST_OF_THE_STORY} == {}


def test_a_room_imports_only_rooms_below_it():
    height = {room: number for number, room in enumerate(ROOMS)}
    above = [
        f"{place(one.file, one.line)}: {one.source} imports {one.target}"
        for one in drawing.imports()
        if one.source in height and height.get(one.target, len(ROOMS)) > height[one.source]
    ]
    assert not above, "\n".join(above)


def test_no_rooms_import_each_other():
    assert drawing.circle(drawing.graph()) == []


def test_the_top_of_the_package_holds_rooms_and_commands_alone():
    package = ROOT / "jax_seg"
    names = {path.name for path in package.iterdir()} - {"__pycache__"}
    modules = {f"{name}.py" for name in COMMANDS if name not in ROOMS}
    assert names == {*ROOMS, *modules, "__init__.py", "__main__.py"}
    assert drawing.rooms() == sorted(ROOMS)
    assert drawing.commands() == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_run(name):
    package = ROOT / "jax_seg"
    file = package / (f"{name}/__main__.py" if name in ROOMS else f"{name}.py")
    assert "main" in dict(functions(file))
    assert 'if __name__ == "__main__":' in file.read_text()


def test_the_library_does_not_import_the_configurations():
    found = []
    for file in (ROOT / "jax_seg").rglob("*.py"):
        for line, module in drawing.imported(file):
            if module.split(".")[0] in ("configs", ""):  # '' is relative, which nothing here is
                found.append(place(file, line))
        for node in ast.walk(ast.parse(file.read_text())):
            by_name = isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func)
            if by_name and "configs" in ast.unparse(node):
                found.append(place(file, node.lineno))
    assert not found, "\n".join(found)


def test_every_room_says_what_it_is_for():
    for room in ROOMS:
        assert 20 <= len(drawing.words(room)) <= 90, room


def test_the_picture_is_up_to_date():
    picture = (ROOT / "docs" / "rooms.svg").read_text()
    assert picture == drawing.picture(), "the rooms have changed: run 'python docs/rooms.py'"


def test_the_picture_shows_only_what_does_not_follow_and_breaks_at_a_circle(tmp_path):
    for room, text in {
        "low": "",
        "mid": "from jax_seg.low import a",
        "high": "def f():\n    import jax_seg.mid.x\n    from jax_seg import low",
    }.items():
        (tmp_path / "jax_seg" / room).mkdir(parents=True)
        (tmp_path / "jax_seg" / room / "__init__.py").write_text(
            f'"""The {room} one. More."""\n{text}'
        )
    (tmp_path / "jax_seg" / "act.py").write_text("from jax_seg.high import f")
    (tmp_path / "launch.py").write_text("from jax_seg.mid import x\nimport numpy")
    graph = drawing.graph(tmp_path)
    assert graph == {
        "launch.py": {"mid"},
        "commands": {"high"},
        "high": {"low", "mid"},
        "mid": {"low"},
        "low": set(),
    }
    assert sorted(drawing.reduced(graph)) == [
        ("commands", "high"),
        ("high", "mid"),
        ("launch.py", "mid"),
        ("mid", "low"),
    ]
    picture = drawing.picture(tmp_path)
    assert (
        picture.count('class="arrow"') == 4 and ">The high one.<" in picture and ">act<" in picture
    )
    (tmp_path / "jax_seg" / "low" / "back.py").write_text("from jax_seg.high import f")
    with pytest.raises(ValueError, match=r"circle: \w+( → \w+){2,3}\.$"):
        drawing.picture(tmp_path)


def test_the_files_that_the_design_names_exist():
    text = (ROOT / "docs" / "design.md").read_text()
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?|launch\.py)`", text))
    assert len(named) > 40
    assert {name for name in named if not any((r / name).exists() for r in PLACES)} == set()
