"""Kinds of data: volumes and images. Each module holds everything that is specific to its kind.

Each module has
  NOUN                   'volume' or 'image', for messages
  FIELDS                 {section of the configuration: the fields that it uses, None for all}
  prepare(workdir, preprocessing, *, seed, **sections) -> `Task`
  sample_shape(data)     shape of one training sample's image, channels last
  sample_type(data)      type of the image on its way to the device
  augmentation(preprocessing, **sections) -> (key, batch) -> batch
  labelled(root, images, labels) -> {id: volume or example with its label}
  read_pair(example, table) -> (image, encoded label), [D, H, W] each
  read_probability(path) -> what `evaluate` wrote, [D, H, W]
  segmenter(network, config, ...) -> (variables, array as read) -> logits [D, H, W]
"""

from jax_seg.tasks import images, volumes

KINDS = {"folder": volumes, "synthetic": volumes, "images": images}


def of_images(fields):
    """Whether a configuration, every field by its dotted path, is one of images."""
    return fields.get("data.name") == "images"


def kind_of(name):
    """The module of a kind of data.

    Args:
      name: the configuration's data.name.

    Raises:
      ValueError: there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f"data.name is {name!r}; choose one of {', '.join(KINDS)}.")
    return KINDS[name]
