"""Options of the losses as fields of a configuration's loss section."""

import math
from typing import NamedTuple

from jax_seg.system.names import did_you_mean

SMALLEST = 1e-12  # the smallest constant that keeps a quotient from 0 / 0


class Field(NamedTuple):
    """The loss option that a configuration field sets, and its limits."""

    term: str
    option: str
    least: float = 0.0
    most: float = math.inf


FIELDS = {
    "focal_alpha": Field("focal", "alpha", most=1.0),
    "focal_gamma": Field("focal", "gamma"),
    "foreground_weight": Field("focal", "foreground_weight"),
    "background_weight": Field("focal", "background_weight"),
    "dice_smooth": Field("dice", "smooth", least=SMALLEST),
    "variance_target_entropy": Field("variance", "target_entropy", most=math.log(2)),
    "entropy_target_entropy": Field("entropy", "target_entropy", most=math.log(2)),
    "boundary_smooth": Field("boundary", "smooth", least=SMALLEST),
    "cldice_iterations": Field("cldice", "iterations"),
    "cldice_smooth": Field("cldice", "smooth", least=SMALLEST),
    "skeleton_recall_iterations": Field("skeleton_recall", "iterations"),
    "skeleton_recall_smooth": Field("skeleton_recall", "smooth", least=SMALLEST),
}
"""Fields of a configuration by name; every option of every loss is one of them."""


def group_options(fields):
    """The options of `combine` from fields of a configuration: {'cldice': {'iterations': 3}, …}.

    Args:
      fields: {name in `FIELDS`: number}.

    Raises:
      ValueError: an unknown field or a value out of range, naming loss.<field>.
    """
    options = {}
    for name, value in fields.items():
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS, shown="loss.{}".format)
            raise ValueError(f"loss.{name} is not known{hint}")
        field = FIELDS[name]
        if not field.least <= value <= field.most:
            most = f" to {field.most:g}" if math.isfinite(field.most) else " or more"
            raise ValueError(f"loss.{name} is {value}; set it to {field.least:g}{most}.")
        options.setdefault(field.term, {})[field.option] = value
    return options
