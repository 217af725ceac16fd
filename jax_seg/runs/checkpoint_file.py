"""One checkpoint: one safetensors file, with the arrays by name and all else as JSON in its header.

A file appears whole or not at all, takes the place of another in one step, and is removed in one
step; what was damaged since (cut, zeroed, copied in part) is found by its digests.
"""

import hashlib
import json
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from jax_seg.system.files import replacing


class Damaged(ValueError):
    """A file that does not hold what was written.

    Attributes:
      reason: what is wrong with it, in words.
    """

    def __init__(self, path, reason):
        self.reason = str(reason).removeprefix("Error while deserializing header: ")
        super().__init__(
            f"{path} is damaged ({self.reason}): restore it from a copy, or remove it."
        )


class Header(NamedTuple):
    """What lies beside the arrays, JSON types.

    Attributes:
      loop: dict: the position of the run and what belongs to it.
      metrics: {name: number} of the validation, or None.
      pinned: step of another checkpoint that a run resumed from here may return to, or None.
      digests: {name of array: its digest}.
    """

    loop: dict
    metrics: dict | None
    pinned: int | None
    digests: dict


def write(path, tree, loop, *, metrics=None, pinned=None):
    """Write a tree of numpy arrays; other arguments are the fields of `Header`.

    Raises:
      OSError: it could not be written, for example because the disk is full.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named(tree).items()}
    digests = {name: _digest(array) for name, array in arrays.items()}
    header = json.dumps(Header(loop, metrics, pinned, digests)._asdict())
    # Not by save_file, which leaves a file of an unknown name behind when it is killed.
    content = safetensors.numpy.save(arrays, {"checkpoint": header, "digest": _text_digest(header)})
    with replacing(path) as beside:
        beside.write_bytes(content)


def read_header(path):
    """The `Header` of a file; the arrays are not read.

    Raises:
      Damaged: the header is not whole, or the file is cut or longer than it says.
      OSError: it is absent or cannot be read.
    """
    with _open(path) as file:
        return _header(path, file)


def read_state(path, abstract_tree):
    """Read all arrays as those of a tree.

    Args:
      path: file.
      abstract_tree: tree of `jax.ShapeDtypeStruct`, whose shardings say where the arrays go.

    Returns:
      (tree of jax arrays, Header).

    Raises:
      Damaged: an array is not what was written, or as of `read_header`.
      ValueError: the file holds another tree.
      OSError: it is absent or cannot be read.
    """
    arrays, header = _read(path, lambda _: True)
    placed = []
    for name, leaf in named(abstract_tree).items():
        stored = arrays.get(name, np.empty(0, "V"))
        if (stored.shape, stored.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(
                f"{path} is of another network, optimizer or version: its {name} is "
                f"{stored.dtype} {stored.shape} instead of {leaf.dtype} {leaf.shape}; choose "
                "another --workdir."
            )
        placed.append(jax.device_put(stored, leaf.sharding))
    return jax.tree.unflatten(jax.tree.structure(abstract_tree), placed), header


def read_part(path, *prefixes):
    """Read the arrays whose names start with one of several prefixes, such as 'params/'.

    Returns:
      (nested dict of numpy arrays, empty where there are none; Header).

    Raises:
      As `read_state`.
    """
    arrays, header = _read(path, lambda name: name.startswith(prefixes))
    return flax.traverse_util.unflatten_dict(arrays, sep="/"), header


def check(path):
    """Raise as `read_state` unless every array is what was written; one is in memory at a time."""
    with _open(path) as file:
        for name, digest in _header(path, file).digests.items():
            _array(path, file, name, digest)


def named(tree):
    """{'params/encoder/kernel': leaf, …} of a tree.

    Raises:
      ValueError: two leaves have one name, since a key holds a '/'.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(names) < len(leaves):
        raise ValueError("Two arrays of the state have one name: rename a module that holds a '/'.")
    return names


def _read(path, wanted):
    with _open(path) as file:
        header = _header(path, file)
        arrays = {
            name: _array(path, file, name, digest)
            for name, digest in header.digests.items()
            if wanted(name)
        }
    return arrays, header


def _open(path):
    path.open("rb").close()  # its errors name the file
    try:
        # Not mapped: a disk that fails would end the process.
        return safetensors.safe_open(path, framework="np", backend="pread")
    except safetensors.SafetensorError as error:
        raise Damaged(path, error) from error


def _header(path, file):
    found = file.metadata() or {}
    text = found.get("checkpoint", "")
    if not text or found.get("digest") != _text_digest(text):
        raise Damaged(path, "its header is not what was written")
    return Header(**json.loads(text))


def _array(path, file, name, digest):
    try:
        array = file.get_tensor(name)
    except safetensors.SafetensorError as error:
        raise Damaged(path, error) from error
    if _digest(array) != digest:
        raise Damaged(path, f"{name} is not what was written")
    return array


def _digest(array):
    content = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    content.update(array.reshape(-1).view(np.uint8))
    return content.hexdigest()


def _text_digest(text):
    return hashlib.sha256(text.encode()).hexdigest()
