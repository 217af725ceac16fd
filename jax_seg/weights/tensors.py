"""Tensors of a weights file by name, from any program; no code in the file is executed."""

from pathlib import Path

import jax
import jax.numpy as jnp
from safetensors import SafetensorError, safe_open

from jax_seg.system.files import refuse_address
from jax_seg.weights.torch_checkpoint import read_state_dict


def read_tensors(path):
    """The tensors of a weights file.

    Args:
      path: a .safetensors file, or a checkpoint of `torch.save`, see `read_state_dict`.

    Returns:
      {name: array}.

    Raises:
      OSError: there is no such file, or it cannot be read.
      ValueError: the file is damaged or of another format, or it is an address.
    """
    path = refuse_address(path)
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


def fit(path, arrays, shapes, *, name_of, channels_last, what):
    """Parameters of the given shapes, filled with the tensors of a file.

    Args:
      path: of the file, for the errors.
      arrays: {name: array} of the file.
      shapes: tree of arrays or shapes of the parameters.
      name_of: path in the tree -> name in the file.
      channels_last: (name, array, number of axes) -> array with its axes in Flax's order.
      what: the network that the tensors should fit, for the errors.

    Returns:
      Tree of float32 arrays.

    Raises:
      ValueError: a tensor is missing, left over, or of another shape.
    """
    wanted = {name_of(leaf) for leaf, _ in jax.tree_util.tree_leaves_with_path(shapes)}
    missing, unexpected = wanted - arrays.keys(), arrays.keys() - wanted
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {what}: missing {some(missing)}; unexpected {some(unexpected)}."
        )

    def leaf(tree_path, expected):
        name = name_of(tree_path)
        array = channels_last(name, arrays[name], expected.ndim)
        if array.shape != expected.shape:
            raise ValueError(
                f"{path}: tensor '{name}' has shape {arrays[name].shape}, which does not fit "
                f"{what}."
            )
        return jnp.asarray(array, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
