"""Write trained networks to a folder that needs nothing of this project to segment volumes."""

import functools
import json
from typing import NamedTuple

import numpy as np

from jax_seg import models, tasks
from jax_seg.data import preprocess
from jax_seg.data.preprocess import PerVolume, Preprocessing
from jax_seg.infer import as_onnx, exported
from jax_seg.infer.network import make_network
from jax_seg.ops.classes import Classes
from jax_seg.runs import card, checkpoints, held_out, members, together
from jax_seg.runs.data_folders import data_folders
from jax_seg.system import configuration, outputs
from jax_seg.system.files import (
    refuse_address,
    remove_unfinished_beside,
    replacing_folder,
    write_json,
)

COMMAND = "export"
OUTPUTS = ("probability", "logits")  # of a network as ONNX


class Source(NamedTuple):
    """A network to export.

    Attributes:
      network: jitted, of `network.make_network`.
      in_float32: the same with this compute type, for ONNX: runtimes have few operators in
        bfloat16.
      variables: its weights.
      rule: its preprocessing.
      loaded: `members.Network`.
      beside: what the checkpoint stores beside the weights.
      channels: of its images.
      classes: `Classes` that it tells apart.
    """

    network: object
    in_float32: object
    variables: dict
    rule: Preprocessing | PerVolume
    loaded: members.Network
    beside: dict
    channels: int
    classes: Classes


def read(text):
    """The `Source` that WORKDIR@CHECKPOINT@AVERAGE names.

    Raises:
      FileNotFoundError, ValueError: there is no such network, or its prediction is more than that
        of windows: it is one for images, or was imported from nnU-Net.
    """
    member = members.parse(text)
    variables, beside, _ = members.read(member)
    config = configuration.from_dict(beside["config"])
    kind = tasks.kind_of_run(configuration.flat(config))
    if kind.PREDICTION.as_map:
        raise ValueError(
            f"{text} is a network for {kind.NOUN}s, whose resizing an export does not carry: name "
            "networks for volumes."
        )
    if config.validate.get("convention") == members.NNUNET:
        raise ValueError(
            f"{text} was imported from nnU-Net and predicts by its rules, which an export does not "
            "carry: train it further (docs/nnunet.md), and export that run."
        )
    rule = preprocess.stored(beside["preprocessing"])
    fields = config.model.to_dict()
    network, in_float32 = (
        make_network(models.build(**fields | {"dtype": dtype}), rule)
        for dtype in (fields["dtype"], "float32")
    )
    channels = config.model.get("in_channels", 1)
    classes = held_out.table_of(configuration.flat(config)).classes
    loaded = members.load(member)
    return Source(network, in_float32, variables, rule, loaded, beside, channels, classes)


def require_writable(folder, sources):
    """Refuse a folder among the inputs of the runs, or one with files that are not an export's.

    Raises:
      ValueError, OSError: naming it, or the file.
    """
    folder = refuse_address(folder)
    inputs = [
        path
        for one in sources
        for path in data_folders(one.loaded.fields, one.loaded.facts["workdir"])
    ]
    workdirs = [one.loaded.facts["workdir"] for one in sources]
    outputs.require_apart(folder, inside=inputs, same=workdirs, flag="OUT")
    outputs.require_folder(folder, flag="OUT")
    if folder.is_dir():
        outputs.require_own(sorted(folder.iterdir()), COMMAND, flag="OUT")


def write(folder, sources, onnx=False):
    """Write networks, whose probabilities are averaged, as one folder; complete or not at all.

    It holds a program and the weights of each network, model.json, the scripts load.py and
    segment.py, and card.md. A folder of an earlier export is replaced.

    Args:
      folder: of `require_writable`.
      sources: list of `Source`.
      onnx: also write each network as ONNX, of one window.

    Raises:
      ValueError: ONNX cannot carry a network, or the networks differ in channels or classes.
      OSError: the folder cannot be written.
    """
    mark = outputs.written_by(COMMAND)
    advice = "name networks for the same images and classes"
    channels = together.agreed("channels", [one.channels for one in sources], advice)
    classes = together.agreed("classes", [one.classes for one in sources], advice)
    remove_unfinished_beside(folder)
    with replacing_folder(folder) as beside:
        described = [_write(beside, n, one, mark, onnx) for n, one in enumerate(sources)]
        content = {
            "members": [one | {"weight": 1 / len(sources)} for one in described],
            "channels": channels,
            "classes": classes.as_json(),
            "exclusive": classes.exclusive,
            "threshold": card.threshold(sources),
            "exported_with": checkpoints.code_version(),
        }
        write_json(beside / "model.json", outputs.marked(content, COMMAND))
        for name, text in exported.scripts().items():
            (beside / name).write_text(text)
        if any(one["per_volume"] for one in described):
            (beside / "measure_volume.py").write_text(exported.measuring(mark))
        (beside / "card.md").write_text(card.text(sources, mark))


def _write(folder, number, source, mark, onnx):
    """Write one network; its entry of model.json."""
    facts = source.loaded.facts
    window, names = facts["patch"], (f"network_{number}.jax", f"weights_{number}.npz")
    program = exported.program(
        source.network, source.rule, source.variables, window, source.channels, source.classes
    )
    # A reader of the program does not look beyond its end.
    (folder / names[0]).write_bytes(program + mark.encode())
    exported.write_weights(folder / names[1], source.variables, mark)
    in_onnx = f"network_{number}.onnx" if onnx else None
    if in_onnx:
        _write_onnx(folder / in_onnx, source, mark)
    per_volume = isinstance(source.rule, PerVolume)
    kept = ("step", "epoch", "weights", "digest", "trained_with", "preprocessing")
    return {
        "program": names[0],
        "weights": names[1],
        "onnx": in_onnx,
        "window": list(window),
        "overlap": facts["overlap"],
        "spacing": source.beside.get("spacing"),
        "per_volume": json.loads(json.dumps(source.rule._asdict())) if per_volume else None,
        "source": {name: facts[name] for name in kept},
    }


def _write_onnx(path, source, mark):
    """Write the network for one window in float32; under `PerVolume` it has a second input."""
    loaded, weights = source.loaded, exported.flat(source.variables)
    low, high = (getattr(source.rule, name, at) for name, at in (("low", 0), ("high", 255)))
    shape = (1, *loaded.facts["patch"], source.channels)
    noise = np.random.default_rng(0).uniform(low, high, shape)
    inputs = {"window": noise.astype(np.float32)}
    if isinstance(source.rule, PerVolume):
        inputs["own"] = exported.own_numbers(source.channels)
    chain = exported.chain(source.in_float32, source.rule, source.classes, one=True)
    as_onnx.write(path, functools.partial(chain, weights), inputs, OUTPUTS, mark)
