"""Loads a network of this folder, from stored voxels to probabilities: pip install jax flatbuffers

The file was written by jax_seg.export.
"""

import json
from pathlib import Path

import jax
import numpy as np
from jax import export

FOLDER = Path(__file__).resolve().parent


def load(number=0):
    """A network: windows [B, *window, channels] as stored -> (probabilities, logits), float32.

    Both are [B, *window, classes]. Where 'per_volume' in model.json is a rule, it takes a second
    argument, float32 [4], the volume's clipping limits, shift and scale, or [1, 4, channels].
    """
    member = json.loads((FOLDER / "model.json").read_text())["members"][number]
    program = export.deserialize(bytearray((FOLDER / member["program"]).read_bytes()))
    weights = jax.device_put(dict(np.load(FOLDER / member["weights"])))
    call = jax.jit(program.call)
    return lambda windows, *own: call(weights, np.asarray(windows, np.float32), *own)
