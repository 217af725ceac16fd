"""Import the library of a format that is not always installed."""

import importlib


def library(name, path, package=""):
    """The module `name`.

    Args:
      name: of the module.
      path: of the file that needs it, for the error.
      package: that holds it, where it has another name.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{path} needs the package {package or name}, which is not installed: run "
            "pip install 'jax-seg[formats]', or save the volume as TIFF or Zarr."
        ) from error
