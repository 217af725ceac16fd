"""Load the network that WORKDIR@STEP or WORKDIR@swa names; `together` averages several.

All commands that take trained networks share this form. After WORKDIR, @best, @latest or @STEP
selects the checkpoint, and @swa or @ema an average instead of the raw weights; WORKDIR@STEP@ema
combines both. The default checkpoint is the best for raw weights, and the latest for an average,
which keeps improving after the raw weights were best.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jax_seg import models, tasks
from jax_seg.data import preprocess
from jax_seg.data.labels import class_names
from jax_seg.infer import as_nnunet, ensemble
from jax_seg.infer.network import make_network
from jax_seg.infer.part import Part
from jax_seg.infer.volume import at_spacing
from jax_seg.runs import checkpoints
from jax_seg.system import configuration
from jax_seg.tasks import judged

WEIGHTS = ("raw", "swa", "ema")
NNUNET = "nnunet"
"""`validate.convention` of an imported network, which predicts as nnU-Net does."""


class Member(NamedTuple):
    """A network by name.

    Attributes:
      workdir: folder of a run.
      checkpoint: 'best', 'latest', a step, or '' for the default.
      weights: of WEIGHTS, or '' for raw.
    """

    workdir: str
    checkpoint: str
    weights: str


class Network(NamedTuple):
    """A trained network, ready to run.

    Attributes:
      segment: volume [D, H, W] or [D, H, W, C] as stored -> float32 logits [D, H, W] on the device;
        of one for images, image uint8 [1, H, W, 3] -> logits [1, H, W]. A network for volumes takes
        the volume's `spacing` too, see `at_spacing`.
      fields: every field of its run's configuration by its dotted path.
      facts: what identifies it: workdir, step, epoch, weights, their digest, trained_with (code
        version), preprocessing, and for volumes patch, overlap and where it is known the spacing
        of those that it was trained on; of networks imported from nnU-Net trained_spacing instead.
      validation_ids: ids of the volumes or images that its run held out; None if not recorded.
      trained_on: ids of those that its weights were trained on; None if not recorded.
      judged_on: `JudgedOn` of what its run held out.
    """

    segment: Callable
    fields: dict
    facts: dict
    validation_ids: list | None
    trained_on: list | None
    judged_on: judged.JudgedOn


def parse(text):
    """Read WORKDIR, WORKDIR@CHECKPOINT, WORKDIR@AVERAGE or WORKDIR@CHECKPOINT@AVERAGE.

    A folder with an @ in its own name is taken as it is.

    Raises:
      ValueError: the part after an @ is neither a checkpoint nor an average.
    """
    workdir, found = str(text), {}
    while "@" in workdir and not Path(workdir).is_dir():
        workdir, _, part = workdir.rpartition("@")
        if part in WEIGHTS:
            kind = "weights"
        elif part in ("best", "latest") or part.isdigit():
            kind = "checkpoint"
        else:
            kind = None
        if kind is None or kind in found:
            raise ValueError(
                f"{text} does not name a network at '@{part}': write WORKDIR, then one of @best, "
                "@latest and @STEP, or one of @swa and @ema, or one of each."
            )
        found[kind] = part
    return Member(workdir, found.get("checkpoint", ""), found.get("weights", ""))


def of_folds(member):
    """The members of the folds within a folder that is no run itself; else the `Member` alone.

    Cross-validation and `jax_seg.convert` write such folders.
    """
    folder = Path(member.workdir)
    if (folder / "config.json").exists():
        return [member]
    folds = sorted(path.parent for path in folder.glob("fold_*/config.json"))
    return [member._replace(workdir=str(fold)) for fold in folds] or [member]


def read(member):
    """The weights of a network.

    Returns:
      (variables as numpy arrays, what was saved beside them, step).

    Raises:
      FileNotFoundError, ValueError: there is no such run, checkpoint or average.
    """
    weights = member.weights or "raw"
    name = member.checkpoint or ("best" if weights == "raw" else "latest")
    variables, stored, step = checkpoints.read_variables(member.workdir, name, weights)
    if weights == "swa" and not stored["loop"]["averaged"]:
        raise ValueError(
            f"{member.workdir} has averaged no weights by step {step}, since average.swa_start is "
            "later: choose a later checkpoint, or raw weights."
        )
    return variables, stored, step


class Device:
    """Holds the weights of one network on the device; the members of an ensemble take turns."""

    def __init__(self):
        self._variables = self._placed = None

    def place(self, variables):
        """`variables` on the device, after removing those of another network."""
        if self._variables is not variables:
            self._placed = None
            self._placed = jax.device_put(variables, jax.local_devices()[0])
            self._variables = variables
        return self._placed


def load(
    member,
    *,
    overlap=None,
    windows=None,
    device=None,
    programs=None,
    orientations=(ensemble.UPRIGHT,),
):
    """Read a network.

    Its parameters stay in host memory, and on the device until another network's are
    needed.

    Args:
      member: Member.
      overlap, windows: of `predict_volume`; None takes the run's.
      device: `Device` that the networks of an ensemble share.
      programs: dict in which they share compiled programs, if configuration and preprocessing
        are the same.
      orientations: over which a network of nnU-Net averages within each window.

    Raises:
      FileNotFoundError, ValueError: there is no such run, checkpoint or average.
    """
    variables, stored, step = read(member)
    config, device = configuration.from_dict(stored["config"]), device or Device()
    programs = {} if programs is None else programs
    facts = {
        "workdir": str(Path(member.workdir).absolute()),
        "step": step,
        "epoch": stored["epoch"],
        "weights": member.weights or "raw",
        "digest": _digest(variables),
        "trained_with": stored["code_version"],
        "preprocessing": stored["preprocessing"],
    }
    if three := stored.get("source", {}).get("spacing"):
        facts["trained_spacing"] = three
    if trained := stored.get("spacing"):
        facts["network_spacing"] = trained
    fields, rule = configuration.flat(config), preprocess.stored(stored["preprocessing"])
    if config.validate.get("convention") == NNUNET:
        segment, chosen = _as_nnunet(stored, config, rule, programs, overlap, orientations)
    else:
        segment, chosen = tasks.kind_of_run(fields).segmenter(
            _network(stored["config"]["model"], stored["preprocessing"], programs),
            config,
            rule,
            overlap=overlap,
            windows=windows,
            name=member.workdir,
        )
        segment = at_spacing(segment, trained)
    best = member.checkpoint in ("", "best") and facts["weights"] == "raw"

    def on_device(image, **known):
        several = image.shape[3] if len(image.shape) == 4 else 1
        found = image.channels if isinstance(image, Part) else several
        require_channels(found, fields.get("model.in_channels"), member.workdir)
        return segment(device.place(variables), image, **known)

    return Network(
        on_device,
        fields,
        facts | chosen,
        validation_ids=stored.get("split", {}).get("validation"),
        trained_on=judged.trained_on(stored),
        judged_on=judged.of_stored(stored)._replace(chose=(judged.CHECKPOINT,) * best),
    )


def require_channels(found, wanted, workdir, name="the image"):
    """Refuse an image of other channels than a network takes.

    Args:
      found, wanted: their numbers; a network that takes 0 or None takes any.
      workdir: of the network.
      name: of the image.

    Raises:
      ValueError: they differ.
    """
    if not wanted or found == wanted:
        return
    needed = (
        f"give all of them, as NAME_{{0000..{wanted - 1:04}}}.EXT, or " if wanted > found else ""
    )
    raise ValueError(
        f"{name} has {found} channel{'s' * (found > 1)}, but the network of {workdir} takes "
        f"{wanted}: {needed}choose a network of such images."
    )


def _network(model, preprocessing, programs):
    """The network of a stored configuration, compiled once for all of `programs`."""
    key = json.dumps([model, preprocessing], sort_keys=True)
    if key not in programs:
        built = models.build(**configuration.from_dict(model))
        programs[key] = make_network(built, preprocess.stored(preprocessing))
    return programs[key]


def _as_nnunet(stored, config, rule, programs, overlap, orientations):
    """`segmenter` of a network that was imported from nnU-Net, with the head that it had there."""
    head = jax.tree.map(np.float32, stored["source"]["head"], is_leaf=lambda v: isinstance(v, list))
    fields = dict(configuration.from_dict(stored["config"]["model"]))
    fields |= {"out_channels": len(head["bias"]), "deep_supervision": 0}
    program = _network(fields, as_nnunet.as_rule(rule)._asdict(), programs)
    options = {
        "patch": tuple(config.data.patch),
        "overlap": config.validate.overlap if overlap is None else overlap,
    }
    classes = max(len(class_names(config.data.get("classes", ()))), 1)

    def segment(variables, volume, spacing=None):
        network = functools.partial(program, {"params": {**variables["params"], "output": head}})
        return as_nnunet.segment_volume(
            network,
            volume,
            rule,
            **options,
            orientations=orientations,
            spacing=spacing,
            trained=stored["source"]["spacing"],
            classes=classes,
        )

    return segment, options | {"patch": list(options["patch"]), "convention": NNUNET}


def _digest(variables):
    """Short digest of all weights: a folder may be retrained and reach the same step."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()
