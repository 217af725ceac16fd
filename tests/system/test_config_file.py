"""A configuration is loaded from any folder, and leaves no trace in what is imported later."""

import importlib
import sys

import pytest

from configs import base
from jax_seg.system import config_file
from tests.conftest import ROOT

FILE = """
import ml_collections
from {package} import neighbour

def get_config(argument="none"):
    return ml_collections.ConfigDict({{"value": neighbour.VALUE, "argument": argument}})
"""


def write(folder, value, package=None):
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(FILE.format(package=package or folder.name))
    (folder / "neighbour.py").write_text(f"VALUE = {value}\n")
    return folder / "own.py"


def test_folders_of_one_name_do_not_mix(tmp_path):
    for value in (1, 2):
        file = write(tmp_path / str(value) / "configs", value)
        path, modules = list(sys.path), dict(sys.modules)
        assert config_file.load(file).value == value
        assert sys.path == path
        assert {name: sys.modules[name] for name in modules} == modules
        assert sys.modules.keys() - modules.keys() <= {"configuration_file"}
    assert importlib.import_module("configs.base") is base  # of this repository


def test_the_argument_follows_the_path_or_is_given(tmp_path):
    file = write(tmp_path / "mine", 3)
    assert config_file.load(file).argument == "none"
    assert config_file.load(file, "demo").argument == "demo"
    assert config_file.load(f"{file}:unet", "demo").argument == "unet"


def test_a_path_relative_to_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path / "configs", 4)
    monkeypatch.chdir(tmp_path)
    assert config_file.load("configs/own.py").value == 4
    monkeypatch.chdir(tmp_path / "configs")
    assert config_file.load("own.py").value == 4
    assert config_file.load("../configs/own.py").value == 4


def test_a_link_gives_the_folder_its_name(tmp_path):
    write(tmp_path / "store", 5, package="experiments")
    (tmp_path / "experiments").symlink_to(tmp_path / "store")
    assert config_file.load(tmp_path / "experiments" / "own.py").value == 5


def test_a_package_of_the_same_name_elsewhere_is_not_taken(tmp_path, monkeypatch):
    write(tmp_path / "elsewhere" / "mine", 6)
    (tmp_path / "elsewhere" / "mine" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert config_file.load(write(tmp_path / "here" / "mine", 7)).value == 7


def test_a_folder_beside_its_own_is_imported_and_forgotten(tmp_path):
    for value in (8, 9):
        root = tmp_path / str(value)
        write(root / "shared_values", value)
        file = write(root / "mine", 0, package="shared_values")
        assert config_file.load(file).value == value
    assert "shared_values" not in sys.modules


def test_the_repositorys_own_versions_load():
    assert config_file.load(ROOT / "configs" / "v6.py", "demo").train.epochs == 24
    assert "dims" in config_file.load(f"{ROOT}/configs/cod10k.py:demo").model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", r"own\.py cannot be loaded: SyntaxError in own\.py, line 1: "),
        ("\nimport nowhere_at_all", r"ModuleNotFoundError in own\.py, line 2: No module named 'no"),
        ("def get_config():\n  return 1 / 0", r"ZeroDivisionError in own\.py, line 2: division by"),
        ("def get_config(x):\n  raise KeyError(x)", "TypeError in own.py: .*1 required positional"),
        ("def get_config():\n  raise ValueError('No such preset.')", r"own\.py: No such preset\."),
        ("x = 1", r"own\.py: it defines no get_config"),
        ("def get_config():\n  return {}", r"returns dict instead of ConfigDict"),
    ],
)
def test_a_file_that_fails_ends_in_one_sentence(text, message, tmp_path):
    (tmp_path / "own.py").write_text(text)
    path = list(sys.path)
    with pytest.raises(ValueError, match=message) as caught:
        config_file.load(tmp_path / "own.py")
    assert "\n" not in str(caught.value) and sys.path == path


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "mine", 0)
    with pytest.raises(FileNotFoundError, match=r"owm\.py does not exist; did you mean own\.py\?$"):
        config_file.load(tmp_path / "mine" / "owm.py")
    with pytest.raises(FileNotFoundError, match=r"x\.py does not exist\.$"):
        config_file.load(tmp_path / "nothing" / "x.py")
