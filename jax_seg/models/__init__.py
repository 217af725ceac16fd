"""The networks by name. A new one is a file here, with a `Model`, and an entry in this table.

`Model(**fields).apply(variables, x, train=…)` gives logits, or a tuple of them, finest first; a
network with gates returns those and a dict of its gates' outputs. A network with batch
norm has `batch_momentum`, the share of the running statistics that an update keeps.
"""

from jax_seg.models import camouflage, residual_unet, unet

MODELS = {
    "unet": unet.Model,
    "residual_unet": residual_unet.Model,
    "camouflage": camouflage.Model,
}


def build(name, **fields):
    """A network from its configuration.

    Raises:
      ValueError: the name or a field is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; choose one of {', '.join(MODELS)}.")
    return MODELS[name](**fields)


def with_channels(fields, shape):
    """Fields of a network: where its in_channels is 0, it takes those of a sample.

    Args:
      fields: of a network.
      shape: of a sample's image, [*spatial, C].
    """
    return fields | {"in_channels": shape[-1]} if fields.get("in_channels") == 0 else fields


def check_fields(fields, shape, classes=1):
    """Reject a network that does not fit the samples of a run, or its classes.

    Args:
      fields: of a network, those that it has.
      shape: of a sample's image, [*spatial, C].
      classes: number of classes, each with a logit.

    Raises:
      ValueError: naming the field.
    """
    for name, wanted, reason in (
        ("dimensions", len(shape) - 1, f"a sample has {len(shape) - 1} axes"),
        ("in_channels", shape[-1], f"the images have {shape[-1]} (0 takes what they have)"),
        ("out_channels", classes, f"data.classes makes {classes}"),
    ):
        if fields.get(name, wanted) != wanted:
            raise ValueError(f"model.{name} is {fields[name]}, but {reason}; set it to {wanted}.")
