"""Load the network that WORKDIR@STEP or WORKDIR@swa names, alone or averaged with others.

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
from jax_seg.data import preprocess, spacing
from jax_seg.data.readers.spacing import differ, in_words
from jax_seg.infer import as_nnunet, ensemble
from jax_seg.infer.inspection import spacing_as_nnunet
from jax_seg.infer.network import make_network
from jax_seg.infer.volume import at_spacing
from jax_seg.runs import checkpoints, held_out
from jax_seg.system import configuration
from jax_seg.system.files import existing, read_json
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
      segment: volume [D, H, W] as stored -> float32 logits [D, H, W] on the device; for a network
        for images, image uint8 [1, H, W, 3] -> logits [1, H, W]. One for volumes takes the volume's
        `spacing` too, see `at_spacing`.
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
    return Network(
        lambda image, **known: segment(device.place(variables), image, **known),
        fields,
        facts | chosen,
        validation_ids=stored.get("split", {}).get("validation"),
        trained_on=judged.trained_on(stored),
        judged_on=judged.of_stored(stored)._replace(chose=(judged.CHECKPOINT,) * best),
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
        )

    return segment, options | {"patch": list(options["patch"])}


def _digest(variables):
    """Short digest of all weights: a folder may be retrained and reach the same step."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def read_ensemble(path):
    """([members as texts], [weights]) of a file written by `jax_seg.fit_ensemble`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else.
    """
    content = read_json(existing(path))
    try:
        return [str(text) for text in content["members"]], [float(w) for w in content["weights"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no ensemble ({type(error).__name__}: {error}): write it with "
            "python -m jax_seg.fit_ensemble."
        ) from error


def require_fitted(path, networks):
    """Raise a ValueError where an ensemble was fitted to other weights than its members have now.

    Args:
      path: the file of `read_ensemble`.
      networks: list of Network.
    """
    fitted = read_json(path).get("digests")
    for network, digest in zip(networks, fitted or [], strict=False):
        if network.facts["digest"] != digest:
            raise ValueError(
                f"{path} was fitted to other weights of {network.facts['workdir']} at step "
                f"{network.facts['step']}, which was trained again since: fit the ensemble again."
            )


def load_together(texts, weights=None, *, overlap=None, windows=None, flips=(), rotations=False):
    """Combine several networks into one.

    Args:
      texts: of `parse`, or Members.
      weights: of the mean of their probabilities; None for equal weights.
      overlap, windows: of `load`.
      flips, rotations: of `ensemble.orientations_of`.

    Returns:
      (volume [D, H, W] -> logits [D, H, W], list of Network, dict of JSON types that records
      what was averaged, and how). The first also takes a volume's spacing, see `at_its_spacing`:
      `spacing` is one (z, y, x) for networks of nnU-Net, else a list of those of each network.

    Raises:
      FileNotFoundError, ValueError: of `load`, or weights or rotations that do not fit.
    """
    members = [text if isinstance(text, Member) else parse(text) for text in texts]
    weights = ensemble.normalised(weights, len(members))
    orientations = ensemble.orientations_of(flips, rotations)
    shared = {"device": Device(), "programs": {}, "orientations": orientations}
    networks = [load(member, overlap=overlap, windows=windows, **shared) for member in members]
    facts = dict(networks[0].facts)
    if len(networks) > 1:
        pairs = zip(networks, weights, strict=True)
        facts = {"members": [network.facts | {"weight": weight} for network, weight in pairs]}
    if flips:
        facts["flips"] = [name for name in ensemble.AXES if name in flips]
    if rotations:
        facts["rotations"] = True
        for network in networks:
            _require_square_patch(network)
    imported = agreed(
        "way of averaging",
        [network.fields.get("validate.convention", "probabilities") for network in networks],
        "combine networks of nnU-Net with others of it",
    )
    if imported != NNUNET:
        options = {"weights": weights, "orientations": orientations}
        return functools.partial(_mean_logits, networks, options), networks, facts

    def segment(volume, spacing=None):  # it turns each window, which `load` has seen to
        each = [functools.partial(network.segment, spacing=spacing) for network in networks]
        return ensemble.mean_logits(each, volume, weights=weights, of="logits")

    return segment, networks, facts


def _mean_logits(networks, options, volume, spacing=()):
    """`ensemble.mean_logits` of a volume with its spacing for each network."""
    each = [
        functools.partial(network.segment, spacing=three) if three else network.segment
        for network, three in zip(networks, spacing or (None,) * len(networks), strict=True)
    ]
    oblong = [three for three in spacing if three and differ(three[1:], three[:0:-1])]
    if oblong and any(one.turns for one in options["orientations"]):
        raise ValueError(
            f"--rotations turns the plane of height and width, but the volume's spacing is "
            f"{in_words(oblong[0])}: remove --rotations."
        )
    return ensemble.mean_logits(each, volume, **options)


def at_its_spacing(segment, networks):
    """`segment` of `load_together` as (volume, image) -> logits: with the volume's spacing.

    A volume of another spacing than a network was trained on is resampled to it, and the logits
    back. A run with a data.spacing of its own, which stands for what files say, takes it for every
    volume, and so does a run that knows no spacing.

    Args:
      segment, networks: of `load_together`.

    Returns:
      (`Volume`, [D, H, W] as read) -> logits [D, H, W]. ValueError where a run of
      data.resample='never' is given another spacing, or where the spacing is damaged.
    """
    if any("trained_spacing" in network.facts for network in networks):
        return lambda volume, image: segment(image, spacing=spacing_as_nnunet(volume.image))
    if not any("network_spacing" in network.facts for network in networks):
        return lambda _, image: segment(image)
    return lambda volume, image: segment(
        image, spacing=[other_spacing(network, volume) for network in networks]
    )


def other_spacing(network, volume):
    """The spacing of a `Volume` where it is to be resampled for a `Network`, else None.

    Raises:
      ValueError: of `spacing.to_resample`.
    """
    trained = network.facts.get("network_spacing")
    if not trained or network.fields.get("data.spacing"):
        return None
    found = spacing.stated(volume.image, volume.spacing)
    how = network.fields["data.resample"]
    return found if spacing.to_resample(volume.image, found, trained, how) else None


def agreed(what, values, advice):
    """The value that all members of an ensemble share.

    Args:
      what: noun for the values.
      values: one of each member.
      advice: what to do where they differ, as 'choose with --threshold'.

    Raises:
      ValueError: they differ.
    """
    if any(value != values[0] for value in values):
        given = ", ".join(map(str, values))
        raise ValueError(f"The members differ in their {what} ({given}): {advice}.")
    return values[0]


def label_table(networks):
    """The `LabelTable` of the members of an ensemble; ValueError where they differ in it."""
    tables = [held_out.table_of(network.fields) for network in networks]
    advice = "name members with the same data.foreground, data.ignore and data.background"
    return agreed("meaning of label values", tables, advice)


def _require_square_patch(network):
    if "data.patch" not in network.fields:  # resized to a square
        return
    height, width = network.fields["data.patch"][-2:]
    if height != width:
        raise ValueError(
            f"--rotations turns the plane of height and width, but the patch of "
            f"{network.facts['workdir']} has {height} × {width} voxels there: remove --rotations."
        )
