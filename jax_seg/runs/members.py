"""Which network WORKDIR@STEP or WORKDIR@swa means, ready to run, alone or averaged with others.

Commands that take trained networks share this form: WORKDIR, then what of it: @best, @latest or
@STEP chooses the checkpoint, @swa or @ema an average instead of the raw weights; both together are
WORKDIR@STEP@ema. Without a checkpoint it is the best for raw weights, and the latest for an
average, which keeps improving after the raw weights were best.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg import models
from jax_seg.data import preprocess
from jax_seg.data.readers import pictures
from jax_seg.infer import ensemble
from jax_seg.infer.network import make_network
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.runs import checkpoints
from jax_seg.runs import config as configuration
from jax_seg.system.files import existing, read_json

WEIGHTS = ("raw", "swa", "ema")


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
        of images, image uint8 [1, H, W, 3] -> logits [1, H, W].
      fields: every field of its run's configuration by its dotted path.
      facts: what names it: workdir, step, epoch, weights, their digest, trained_with (code
        version), overlap.
      held_out: ids of the volumes or images that its run held out; None where it says nothing.
    """

    segment: Callable
    fields: dict
    facts: dict
    held_out: list | None


def parse(text):
    """Read WORKDIR, WORKDIR@CHECKPOINT, WORKDIR@AVERAGE or WORKDIR@CHECKPOINT@AVERAGE.

    A folder that has an @ in its own name is meant itself.

    Raises:
      ValueError: what stands behind an @ is neither a checkpoint nor an average.
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
            f"{member.workdir} has not averaged any weights by step {step}: average.swa_start lies "
            "behind it; choose a later checkpoint, or raw weights."
        )
    return variables, stored, step


def load(member, *, overlap=None, windows=None):
    """Read a network.

    Its parameters stay in the memory of the host, and on the device until another network's are
    needed: the device holds one member of an ensemble at a time. Networks of the same
    configuration and preprocessing share one compiled program.

    Args:
      member: Member.
      overlap, windows: of `predict_volume`; None takes the run's.

    Raises:
      FileNotFoundError, ValueError: there is no such run, checkpoint or average.
    """
    variables, stored, step = read(member)
    fields = configuration.flat(configuration.from_dict(stored["config"]))
    network = _network(
        json.dumps(stored["config"]["model"], sort_keys=True),
        preprocess.stored(stored["preprocessing"]),
    )
    facts = {
        "workdir": str(Path(member.workdir).absolute()),
        "step": step,
        "epoch": stored["epoch"],
        "weights": member.weights or "raw",
        "digest": _digest(variables),
        "trained_with": stored["code_version"],
    }
    held_out = stored.get("split", {}).get("validation")
    if of_images(fields):
        if overlap is not None or windows is not None:
            raise ValueError(
                f"{member.workdir} is a network of images, which sees each as a whole: leave "
                "--overlap and --windows out."
            )

        def segment_one(image):
            placed = _on_device(facts["digest"], variables)
            return segment_image(network, placed, image, side=fields["data.side"])

        return Network(segment_one, fields, facts, held_out)

    patch = fields["data.patch"]
    overlap = fields["validate.overlap"] if overlap is None else overlap
    windows = fields["validate.windows"] if windows is None else windows

    def segment(volume):
        placed = functools.partial(network, _on_device(facts["digest"], variables))
        return predict_volume(placed, volume, patch=patch, overlap=overlap, batch=windows)

    return Network(segment, fields, facts | {"overlap": overlap}, held_out)


_placed = {}


def _on_device(digest, variables):
    """`variables` on the device; those of the network before leave it."""
    if digest not in _placed:
        _placed.clear()
        _placed[digest] = jax.device_put(variables, jax.local_devices()[0])
    return _placed[digest]


def _digest(variables):
    """Short digest of all weights: a folder may be trained anew, and reach the same step."""
    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def of_images(fields):
    """Whether a configuration, by its dotted paths, is one of images."""
    return fields.get("data.name") == "images"


def segment_image(network, variables, image, *, side):
    """Logits of an image at its own size.

    Args:
      network: of `network.make_network`.
      variables: of the network.
      image: uint8 [1, H, W, 3].
      side: of the square that the network sees, pixels.

    Returns:
      float32 [1, H, W] on the device: of the probability, resized as the run's own evaluation does.
    """
    square = pictures.resize_image(np.ascontiguousarray(image[0]), side)
    probability = jax.nn.sigmoid(network(variables, square[None]))
    found = pictures.resize_probability(probability[0, ..., 0], image.shape[1:3])
    return jax.scipy.special.logit(jnp.clip(found, 1e-6, 1 - 1e-6))[None]


def read_ensemble(path):
    """([members as texts], [weights]) of a file that `jax_seg.fit_ensemble` wrote.

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


def load_together(texts, weights=None, *, overlap=None, windows=None, flips=(), rotations=False):
    """Several networks as one.

    Args:
      texts: of `parse`, or Members.
      weights: of the mean of their probabilities; None weighs them equally.
      overlap, windows: of `load`.
      flips, rotations: of `ensemble.orientations_of`.

    Returns:
      (volume [D, H, W] -> logits [D, H, W], list of Network, dict of JSON types that says what was
      averaged, and how).

    Raises:
      FileNotFoundError, ValueError: of `load`, or weights or rotations that do not fit.
    """
    members = [text if isinstance(text, Member) else parse(text) for text in texts]
    weights = ensemble.normalised(weights, len(members))
    networks = [load(member, overlap=overlap, windows=windows) for member in members]
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
    segment = functools.partial(
        ensemble.mean_logits,
        [network.segment for network in networks],
        weights=weights,
        orientations=ensemble.orientations_of(flips, rotations),
    )
    return segment, networks, facts


def _require_square_patch(network):
    if of_images(network.fields):
        return
    height, width = network.fields["data.patch"][-2:]
    if height != width:
        raise ValueError(
            f"--rotations turns the plane of height and width, but the patch of "
            f"{network.facts['workdir']} has {height} × {width} voxels there: leave it out."
        )


@functools.cache
def _network(model_fields, preprocessing):
    model = configuration.Reader(configuration.from_dict({"model": json.loads(model_fields)}))
    return make_network(models.build(**model.section("model")), preprocessing)
