"""Kinds of data: volumes and images. Each module holds everything that is specific to its kind.

Each module has
  NOUN, POINT            'volume' and 'voxel', or 'image' and 'pixel', for messages
  SAMPLES                what a training batch holds: 'patches' or 'images'
  TUNABLE                whether `jax_seg.tune` chooses a threshold and post-processing
  WORST                  how many of the worst results the page shows
  PREDICTION             `kinds.Kind`: how inputs are read and predictions written
  FIELDS                 {section of the configuration: the fields that it uses, None for all}
  prepare(workdir, preprocessing, *, seed, **sections) -> `Task`
  channels(data)         of the images, from their headers; the usual number if no data is named
  sample_shape(data, channels)  shape of one training sample's image, channels last
  sample_type(data)      type of the image on its way to the device
  augmentation(preprocessing, **sections) -> (key, batch) -> batch
  labelled(root, images, labels) -> {id: volume or example with its label}
  read_pair(example, table) -> (image, encoded label), [D, H, W] each
  read_middle(example, sampler, box_of) -> (image, label, first voxel, whole shape, group)
  read_probability(path) -> what `evaluate` wrote, [D, H, W]
  probability_of(result) -> float32 [D, H, W], from the last of what `Task.segment` yields
  segmenter(network, config, ...) -> (variables, array as read) -> logits [D, H, W]
"""

from jax_seg.data.labels import class_names
from jax_seg.tasks import images, volumes

KINDS = {"folder": volumes, "synthetic": volumes, "images": images}


def kind_of_run(fields):
    """The module of the kind of data of a run.

    Args:
      fields: every field of its configuration by its dotted path. Converted weights name no data:
        they are of volumes.
    """
    return kind_of(fields.get("data.name", "folder"))


def require_volumes(fields, workdir):
    """Raise a ValueError unless a run is on volumes.

    Args:
      fields: of `kind_of_run`.
      workdir: its folder, for the message.
    """
    kind = kind_of_run(fields)
    if kind is not volumes:
        raise ValueError(
            f"{workdir} is a run on {kind.NOUN}s, but this needs volumes: compare its stored "
            "scores with jax_seg.compare, or score its maps with jax_seg.evaluate --camouflage."
        )


def require_one_class(fields, workdir):
    """Raise a ValueError where a run tells several classes apart.

    Args:
      fields: of `kind_of_run`.
      workdir: its folder, for the message.
    """
    if len(names := class_names(fields.get("data.classes", ()))) > 1:
        raise ValueError(
            f"{workdir} tells several classes apart ({', '.join(names)}), and this command knows "
            "one: use jax_seg.predict, jax_seg.evaluate --classes and jax_seg.compare."
        )


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
