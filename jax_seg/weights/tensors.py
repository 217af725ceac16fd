"""Tensors of a weights file by name, from any program; no code in the file is executed."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from jax_seg.weights.torch_checkpoint import read_state_dict


def read_tensors(path):
    """The tensors of a weights file.

    Args:
      path: a .safetensors file, or a checkpoint of `torch.save`, see `read_state_dict`.

    Returns:
      {name: array}.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: the file is damaged or of another format.
    """
    path = Path(path)
    return (read_safetensors if path.suffix == ".safetensors" else read_state_dict)(path)


def read_safetensors(path):
    """The tensors of a safetensors file, by name; arguments and errors as of `read_tensors`."""
    with Path(path).open("rb"):
        pass  # here an error of the operating system names the file; in the library it does not
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _tensor(path, file, name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); copy or download it again."
        ) from error


def _tensor(path, file, name):
    try:
        return file.get_tensor(name)
    except AttributeError as error:  # of 8 bits and fewer: types that NumPy lacks
        raise ValueError(
            f"{path}: tensor '{name}' cannot be read ({error}); save it as float32."
        ) from error


def some(names, limit=6):
    """The first names in order, and the number of the others."""
    names = sorted(names)
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
