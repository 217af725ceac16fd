"""A network as files that run without this project: a program of jax.export, weights, a script.

The program takes stored voxels, normalises them and returns probabilities. Which form a convolution
and the last layer have is chosen where they are lowered, so one program holds those of all
PLATFORMS.
"""

import inspect
import zipfile
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from jax import export

from jax_seg.data import preprocess
from jax_seg.infer.standalone import load, segment
from jax_seg.ops.classes import ONE, probabilities_of

PLATFORMS = ("cpu", "cuda")


def flat(variables):
    """{'params/…/kernel': array} of a network's variables."""
    return traverse_util.flatten_dict(variables, sep="/")


def chain(network, rule, classes=ONE, one=False):
    """(flat weights, windows float32 [B, *window, C] as stored) -> (probabilities, logits).

    Both float32 [B, *window, classes]. The windows pass one after another, so that B may be any
    number and memory does not grow with it. Under `PerVolume` there is a third argument, float32:
    `own` of `preprocess`, [4] or of several channels [1, 4, C].

    Args:
      network: of `network.make_network`.
      rule: `Preprocessing` or `PerVolume` of the network.
      classes: `Classes` of the network.
      one: B is 1, which needs no loop.
    """

    def on_all(weights, windows, own=None):
        variables = traverse_util.unflatten_dict(weights, sep="/")
        if one:
            logits = network(variables, windows, own)
        else:
            logits = jax.lax.map(lambda w: network(variables, w[None], own)[0], windows)
        return probabilities_of(logits, classes), logits

    if isinstance(rule, preprocess.PerVolume):
        return on_all
    return lambda weights, windows: on_all(weights, windows)


def program(network, rule, variables, window, channels=1, classes=ONE):
    """`chain` for any number of windows, as bytes for `jax.export.deserialize`.

    Args:
      network, rule, classes: of `chain`.
      variables: of the network, for their names and shapes.
      window: its size in voxels.
      channels: of the images.
    """
    (batch,) = export.symbolic_shape("B")
    weights = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in flat(variables).items()}
    inputs = [jax.ShapeDtypeStruct((batch, *window, channels), np.float32)]
    if isinstance(rule, preprocess.PerVolume):
        inputs.append(jax.ShapeDtypeStruct(own_numbers(channels).shape, np.float32))
    exporter = export.export(jax.jit(chain(network, rule, classes)), platforms=PLATFORMS)
    return bytes(exporter(weights, *inputs).serialize())


def own_numbers(channels):
    """Some numbers of a volume of so many channels, as the third argument of a program."""
    each = preprocess.of_channels(preprocess.Preprocessing(0, 255, 127, 1 / 64), channels)
    return preprocess.as_array(preprocess.together(each))


def write_weights(path, variables, mark):
    """Write the flat weights as .npz, with a mark of `system.outputs` as the archive's comment."""
    np.savez(path, **flat(variables))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = mark.encode()


def scripts():
    """{name: text} of the scripts that run the programs of their folder: `infer/standalone`."""
    return {file.name: file.read_text() for file in map(Path, (load.__file__, segment.__file__))}


def measuring(mark):
    """The text of a module with `preprocess.measure`, for networks under `PerVolume`."""
    parts = (
        preprocess.Preprocessing,
        preprocess.PerVolume,
        preprocess.together,
        preprocess.has_input,
        preprocess.measure,
        preprocess._numbers,
        preprocess.box_with_input,
        preprocess._percentiles,
    )
    head = (
        f'"""Measures the numbers by which a volume is normalised. The file was {mark}."""\n\n'
        "from typing import NamedTuple\n\nimport numpy as np\n\n"
        f"PERCENTILE_VOXELS = {preprocess.PERCENTILE_VOXELS}\n"
    )
    return "\n\n".join([head, *map(inspect.getsource, parts)])
