"""From probabilities to a mask, by named steps given in a configuration or a command.

A step is one string, as "hysteresis:low=0.3,high=0.85" or "fill_holes": its name, and the
parameters that differ from the defaults of the function of `STEPS` that carries it out. Radii,
sizes and areas count voxels: the same text means the same everywhere, and the voxels' shape is part
of it, as in "smooth:anisotropy=10".
"""

import inspect
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.infer.postprocess import components, morphology, sheets
from jax_seg.metrics import threshold
from jax_seg.system.files import read_json
from jax_seg.system.names import did_you_mean

DEFAULT = "threshold:value=0.5"

# The first of them make a mask [D, H, W] bool of probabilities, the others take one and return
# one. Arguments after * are parameters of the step; those before are the step's inputs.
STEPS = {
    "threshold": components.threshold,
    "hysteresis": components.hysteresis,
    "remove_small": components.remove_small,
    "keep_largest": components.keep_largest,
    "fill_holes": components.fill_holes,
    "fill_holes_per_slice": components.fill_holes_per_slice,
    "plug_holes": sheets.plug_holes,
    "patch_sheets": sheets.patch_sheets,
    "split_sheets": sheets.split_sheets,
    "close": morphology.closing,
    "open": morphology.opening,
    "smooth": morphology.smooth,
    "mask_empty": components.mask_empty,
}
FIRST = ("threshold", "hysteresis")


class _Kind(NamedTuple):
    """What a parameter may be: its type, a condition, and the condition in words."""

    type: type
    allows: object
    words: str


_SHARE = _Kind(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
_NUMBER = _Kind(float, math.isfinite, "a number")
_POSITIVE = _Kind(float, lambda value: 0 < value < math.inf, "a number above 0")
_COUNT = _Kind(int, lambda value: value >= 0, "an integer of at least 0")
_PARAMETERS = {
    "value": _SHARE,
    "low": _SHARE,
    "high": _SHARE,
    "seed": _SHARE,
    "level": _NUMBER,
    "sigma": _POSITIVE,
    "anisotropy": _POSITIVE,
    "voxels": _COUNT,
    "components": _COUNT,
    "area": _COUNT,
    "depth": _COUNT,
    "height": _COUNT,
    "width": _COUNT,
    "axis": _Kind(int, lambda value: value in (0, 1, 2), "0, 1 or 2"),
    "connectivity": _Kind(int, lambda value: value in (6, 18, 26), "6, 18 or 26"),
}


def parse(text):
    """A step as its name and its parameters.

    Args:
      text: as "close:depth=1,height=2,width=2".

    Returns:
      (name, {parameter: number}), the parameters that the text names.

    Raises:
      ValueError: the step or parameter does not exist, or the value is out of range.
    """
    name, _, rest = str(text).partition(":")
    if name not in STEPS:
        hint = did_you_mean(name, STEPS, otherwise=f"; choose from {', '.join(STEPS)}.")
        raise ValueError(f"Unknown post-processing step '{name}'{hint}")
    known, parameters = defaults(name), {}
    for assignment in rest.split(",") if rest else ():
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"The step '{text}' has '{assignment}': write it as PARAMETER=VALUE.")
        if key not in known:
            choice = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"The step '{name}' has no parameter '{key}': {choice}.")
        if key in parameters:
            raise ValueError(f"The step '{text}' sets {key} twice: set it once.")
        kind = _PARAMETERS[key]
        try:
            parameters[key] = kind.type(value)
            allowed = kind.allows(parameters[key])
        except ValueError:
            allowed = False
        if not allowed:
            raise ValueError(f"The step '{text}' sets {key} to '{value}': give {kind.words}.")
    chosen = known | parameters
    if name == "hysteresis" and chosen["low"] > chosen["high"]:
        raise ValueError(
            f"The step '{text}' has low={chosen['low']:g} above high={chosen['high']:g}: swap them."
        )
    return name, parameters


def defaults(name):
    """{parameter: default} of a step."""
    parameters = inspect.signature(STEPS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_all(steps):
    """The steps of a list, each as (name, parameters), the first one making the mask.

    Raises:
      ValueError: of `parse`, or a step that makes a mask is not the first.
    """
    if isinstance(steps, str):
        raise ValueError(f"The steps are the string '{steps}': give a list of steps.")
    parsed = [parse(text) for text in steps]
    if not parsed or parsed[0][0] not in FIRST:
        parsed.insert(0, parse(DEFAULT))
    for name, _ in parsed[1:]:
        if name in FIRST:
            raise ValueError(
                f"The step '{name}' comes after '{parsed[0][0]}': it works on probabilities, so "
                "keep only one of them and put it first."
            )
    return parsed


def after_threshold(steps, value):
    """`steps` with a threshold of `value` first, unless they start with a threshold or hysteresis.

    Raises:
      ValueError: of `parse_all`.
    """
    begun = tuple(steps)
    if not begun or parse(begun[0])[0] not in FIRST:
        begun = (f"threshold:value={value:g}", *begun)
    parse_all(begun)
    return begun


def apply(probability, image, steps):
    """Carry out the steps.

    Args:
      probability: [D, H, W] floating point in [0, 1], or a mask of 0 and 1.
      image: [D, H, W] the input, or [D, H, W, C], empty where all channels are; or None where no
        step is mask_empty.
      steps: list of texts, see `parse`; without a threshold or hysteresis it starts with `DEFAULT`.

    Returns:
      [D, H, W] uint8 of 0 and 1.

    Raises:
      ValueError: an invalid step or probabilities, or an image that is missing or of another
        shape.
    """
    parsed = parse_all(steps)
    probability = check_probability(probability)
    mask = probability
    for name, parameters in parsed:
        mask = apply_step(mask, name, parameters, probability, image)
    return mask.astype(np.uint8)


def apply_step(mask, name, parameters, probability, image):
    """Carry out one parsed step on a mask, or for the first one on the probabilities."""
    if name == "mask_empty":
        if image is None:
            raise ValueError("The step 'mask_empty' needs the image: give it, or remove the step.")
        image = image.max(-1) if image.ndim == 4 else image
        if image.shape != mask.shape:
            raise ValueError(
                f"The image has shape {image.shape} and the probabilities {mask.shape}: give the "
                "image that was predicted."
            )
    has = {"probability": probability, "image": image}
    step = STEPS[name]
    takes = list(inspect.signature(step).parameters)[1:]
    return step(mask, **{key: value for key, value in has.items() if key in takes}, **parameters)


def check_probability(probability):
    """Probabilities [D, H, W] in float32; ValueError where they are not one volume in [0, 1]."""
    probability = np.asarray(probability)
    if probability.ndim != 3:
        raise ValueError(
            f"The probabilities have shape {probability.shape}: give one volume [D, H, W]."
        )
    probability = probability.astype(np.float32)
    threshold.require_probabilities(probability)
    return probability


def read_steps(workdir):
    """The steps that `jax_seg.tune` chose for a run, as a tuple; None where it has not run.

    Raises:
      ValueError: the file is damaged or names a step that does not exist.
    """
    path = Path(workdir) / "postprocess.json"
    if not path.exists():
        return None
    content = read_json(path)
    try:
        steps = tuple(content["steps"])
        parse_all(steps)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no list of steps ({error}): delete it, or run jax_seg.tune again."
        ) from error
    return steps
