"""Fit the weights of an ensemble on volumes that none of its members has seen.

python -m jax_seg.fit_ensemble runs/a runs/b@swa runs/b@12000 --output ensemble.json
python -m jax_seg.predict --ensemble ensemble.json --input FOLDER --output FOLDER

Equal weights, the best member alone and fitted weights are judged on volumes left out of the fit;
the best of the three is kept.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

from jax_seg.data.fingerprint import random_places
from jax_seg.data.labels import MASKED
from jax_seg.infer.ensemble import cross_entropy, fit_weights
from jax_seg.infer.logits import require_numbers
from jax_seg.runs import held_out, members
from jax_seg.system import outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.files import write_json

VOXELS = 100_000  # drawn of each volume: the memory needed does not depend on the volumes' size


def sample(networks, volumes, seed=0):
    """Probabilities and labels of a random sample of the labelled voxels.

    Args:
      networks: list of `members.Network`.
      volumes: list of labelled `Volume`.
      seed: of the sample.

    Returns:
      ([probabilities [members, voxels] of each volume], [labels [voxels]], {volume id: error}).
    """
    probabilities, labels, errors = [], [], {}
    for number, volume in enumerate(volumes):
        try:
            image, label = held_out.read_labelled(networks[0], volume)
            generator = np.random.default_rng((seed, number))
            places = random_places(label, lambda section: section != MASKED, VOXELS, generator)
            drawn = [_answer(network, volume, image, places) for network in networks]
        except (ValueError, OSError) as error:
            errors[volume.id] = str(error)
            continue
        labels.append(label.reshape(-1)[places])
        probabilities.append(np.stack(drawn))
        print(f"{volume.id}: {places.size} voxels of {len(networks)} members", flush=True)
    return probabilities, labels, errors


def _answer(network, volume, image, places):
    logits = np.asarray(network.segment(image))
    require_numbers(logits, volume.image)
    return np.asarray(jax.nn.sigmoid(logits.reshape(-1)[places]))


def choices(probabilities, labels):
    """Three ways to weigh the members.

    Args:
      probabilities, labels: of `sample`, the volumes to fit to.

    Returns:
      {'equal', 'best member', 'fitted': float64 [members]}.
    """
    single = np.eye(len(probabilities[0]))
    alone = [
        sum(cross_entropy(weights, p, y) for p, y in zip(probabilities, labels, strict=True))
        for weights in single
    ]
    return {
        "equal": single.mean(axis=0),
        "best member": single[np.argmin(alone)],
        "fitted": fit_weights(probabilities, labels),
    }


def judge(probabilities, labels):
    """Mean cross entropy over volumes, in nats per voxel, of each of `choices`.

    Each volume is judged by weights fitted to the others, so that a fit to chance does not look
    good.

    Args:
      probabilities, labels: of `sample`, at least two volumes.

    Returns:
      {'equal', 'best member', 'fitted': float}.
    """
    found = {}
    for left_out, (p, y) in enumerate(zip(probabilities, labels, strict=True)):
        others = [n for n in range(len(labels)) if n != left_out]
        fitted = choices([probabilities[n] for n in others], [labels[n] for n in others])
        for name, weights in fitted.items():
            found.setdefault(name, []).append(cross_entropy(weights, p, y))
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_seg.fit_ensemble",
        description="Fit the weights of an ensemble to the labels of held-out volumes.",
    )
    parser.add_argument("members", nargs="+", help="WORKDIR, WORKDIR@STEP, WORKDIR@swa, …")
    parser.add_argument("--output", required=True, type=Path, help="JSON file for predict")
    parser.add_argument("--images", help="folder of volumes that no member has seen")
    parser.add_argument("--labels", help="folder of their labels")
    parser.add_argument("--seed", type=int, default=0, help="of the voxels that are drawn")
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _fit(arguments))


def _fit(arguments):
    if len(arguments.members) < 2:
        raise ValueError("An ensemble has at least two members: name another.")
    if (arguments.images is None) != (arguments.labels is None):
        raise ValueError("--images and --labels belong together: give both or neither.")
    inputs = [folder for folder in (arguments.images, arguments.labels) if folder]
    outputs.require_file(arguments.output, "fit_ensemble", inside=inputs)
    networks = [members.load(members.parse(text)) for text in arguments.members]
    volumes = held_out.common_volumes(networks, arguments.images, arguments.labels)
    probabilities, labels, errors = sample(networks, volumes, arguments.seed)
    for name, error in errors.items():
        print(f"Error: {name}: {error}", file=sys.stderr)
    if not labels:
        raise ValueError("No volume could be read, so there is nothing to fit to.")
    chosen, judged = "fitted", {}
    if len(labels) > 1:
        judged = judge(probabilities, labels)
        chosen = min(judged, key=judged.get)
    weights = choices(probabilities, labels)[chosen]
    content = {
        # By step: what is best or latest may be another checkpoint tomorrow.
        "members": [
            f"{n.facts['workdir']}@{n.facts['step']}@{n.facts['weights']}" for n in networks
        ],
        "weights": weights.tolist(),
        "chosen": chosen,
        "cross_entropy": judged,
        "fitted_to": [volume.id for volume in volumes if volume.id not in errors],
    }
    for name, value in judged.items():
        print(f"{value:.5f} nats per voxel on volumes left out of the fit: {name}")
    if not judged:
        print("There is one volume, so whether these weights hold for others is not known.")
    print(f"Weights ({chosen}):")
    for text, weight in zip(arguments.members, weights, strict=True):
        print(f"{weight:.4f}  {text}")
    write_json(arguments.output, outputs.marked(content, "fit_ensemble"))
    print(f"Ensemble: {arguments.output}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
