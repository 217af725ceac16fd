"""The networks by name. A new one is a file here, with a `Model`, and an entry in this table."""

from jax_seg.models import unet

MODELS = {"unet": unet.Model}


def build(name, **fields):
    """A network from its configuration.

    Raises:
      ValueError: the name or a field is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; choose one of {', '.join(MODELS)}.")
    return MODELS[name](**fields)
