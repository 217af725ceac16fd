"""Load a configuration file from any folder: 'configs/v6.py', 'configs/v6.py:demo'."""

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
import types
from pathlib import Path

from ml_collections import ConfigDict

from jax_seg.system.names import did_you_mean


def load(path, argument=""):
    """What `get_config` of a file returns, as `launch.py --config FILE.py:ARGUMENT` reads it.

    The file imports its neighbours by the name of their folder, as in `from configs import base`.

    Args:
      path: the file; an argument may follow, as in 'configs/v6.py:demo'.
      argument: of `get_config` when the path names none; '' calls it without one.

    Returns:
      ConfigDict.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file fails, naming its line, or has no `get_config` that returns a ConfigDict.
    """
    name, _, own = str(path).partition(":")
    file = _absolute(name)
    if not file.is_file():
        raise FileNotFoundError(f"{name} does not exist{nearest(file)}")
    try:
        with _neighbours(file.parent):
            spec = importlib.util.spec_from_file_location("configuration_file", file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if not hasattr(module, "get_config"):
                raise ValueError("it defines no get_config(), so it is not a configuration.")
            config = module.get_config(*filter(None, [own or argument]))
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config() returns {type(config).__name__} instead of ConfigDict.")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # whatever the user's own code raises
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name} cannot be loaded: {type(error).__name__} in {_place(error, file)}: {reason}"
        ) from error
    return config


def nearest(file):
    """The end of a sentence about a missing path: '; did you mean v6.py?', or a full stop."""
    names = [path.name for path in file.parent.glob("*.py")]
    return did_you_mean(file.name, names, shown=str)


@contextlib.contextmanager
def _neighbours(folder):
    """Within the block `folder` is a package of its own name, and its parent leads sys.path.

    Afterwards everything imported from there is forgotten, so that folders with the same name do
    not mix.
    """
    package, parent = folder.name, folder.parent
    if folder in map(_absolute, getattr(sys.modules.get(package), "__path__", ())):
        yield  # it is imported already
        return
    known = {name.partition(".")[0] for name in sys.modules} - {package}
    hidden = {name: sys.modules.pop(name) for name in _within(package)}
    if package.isidentifier() and not (folder / "__init__.py").exists():
        # A package of this name elsewhere on sys.path would come before a folder without the file.
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    sys.path.insert(0, str(parent))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(parent))
        new = {name.partition(".")[0] for name in sys.modules} - known
        for name in (name for top in new if _lies_in(top, parent) for name in _within(top)):
            del sys.modules[name]
        sys.modules.update(hidden)


def _within(package):
    """The imported modules of a package, and itself."""
    return [name for name in sys.modules if name.partition(".")[0] == package]


def _lies_in(name, folder):
    """Whether an imported module or package lies directly in a folder."""
    module = sys.modules.get(name)
    places = list(getattr(module, "__path__", ())) or [getattr(module, "__file__", None)]
    return any(place and _absolute(place).parent == folder for place in places)


def _absolute(path):
    """Without '..', but through links: a link gives its folder the name that is imported."""
    return Path(os.path.normpath(Path(path).absolute()))


def _place(error, file):
    """'v6.py, line 7': where the user's own code failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent == file.parent]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else file.name
