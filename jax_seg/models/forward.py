"""Call any network in the same way."""


def forward(model, variables, image, key=None):
    """Run a network and return its outputs in one form.

    Args:
      model: see `jax_seg.models`.
      variables: 'params' and 'batch_stats'.
      image: [B, *spatial, C] float32, normalised.
      key: of dropout; with a key the network runs in training mode.

    Returns:
      (logits, gates, batch_stats): logits [B, *spatial, classes] or a tuple of them; gates a
      dict, empty where there are none; the new running statistics, the old ones without a key.
    """
    if key is None:
        output, changed = model.apply(variables, image), variables
    else:
        output, changed = model.apply(
            variables, image, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
    gates = {}
    if isinstance(output, tuple) and isinstance(output[-1], dict):
        output, gates = output
    return output, gates, changed.get("batch_stats", {})
