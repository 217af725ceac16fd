"""The networks by name. A new one is a file here, with a `Model`, and an entry in this table.

`Model(**fields).apply(variables, x, train=…)` gives logits, or a tuple of them, finest first; a
network with gates gives the pair of that and a dict of what its gates say.
"""

from jax_seg.models import camouflage, unet

MODELS = {"unet": unet.Model, "camouflage": camouflage.Model}


def build(name, **fields):
    """A network from its configuration.

    Raises:
      ValueError: the name or a field is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; choose one of {', '.join(MODELS)}.")
    return MODELS[name](**fields)
