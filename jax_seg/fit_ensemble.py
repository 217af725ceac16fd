"""Fit the weights of an ensemble on volumes that none of its members has seen.

python -m jax_seg.fit_ensemble runs/a runs/b@swa runs/b@12000 --output ensemble.json
python -m jax_seg.predict --ensemble ensemble.json --input FOLDER --output FOLDER
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

from jax_seg import held_out, members, startup
from jax_seg.data.labels import MASKED
from jax_seg.files import write_json
from jax_seg.infer.ensemble import cross_entropy, fit_weights

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
        except (ValueError, OSError) as error:
            errors[volume.id] = str(error)
            continue
        places = np.flatnonzero(label != MASKED)
        generator = np.random.default_rng((seed, number))
        if places.size > VOXELS:
            places = generator.choice(places, VOXELS, replace=False)
        labels.append(label.reshape(-1)[places])
        probabilities.append(
            np.stack(
                [np.asarray(jax.nn.sigmoid(n.segment(image))).reshape(-1)[places] for n in networks]
            )
        )
        print(f"{volume.id}: {places.size} voxels of {len(networks)} members", flush=True)
    return probabilities, labels, errors


def judge(probabilities, labels):
    """Cross entropy, in nats per voxel, of three ways to weigh the members.

    Each volume is judged by weights fitted to the others, so that a fit to chance does not look
    good.

    Args:
      probabilities, labels: of `sample`, at least two volumes.

    Returns:
      {'equal', 'best member', 'fitted': mean over volumes}.
    """
    count = len(probabilities[0])
    found = {"equal": [], "best member": [], "fitted": []}
    for left_out, (p, y) in enumerate(zip(probabilities, labels, strict=True)):
        others = [n for n in range(len(labels)) if n != left_out]
        fitted = fit_weights([probabilities[n] for n in others], [labels[n] for n in others])
        alone = [
            np.mean([cross_entropy(w, probabilities[n], labels[n]) for n in others])
            for w in np.eye(count)
        ]
        for name, weights in (
            ("equal", np.full(count, 1 / count)),
            ("best member", np.eye(count)[int(np.argmin(alone))]),
            ("fitted", fitted),
        ):
            found[name].append(cross_entropy(weights, p, y))
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
    try:
        return _fit(arguments)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _fit(arguments):
    if len(arguments.members) < 2:
        raise ValueError("An ensemble has at least two members: name another.")
    if (arguments.images is None) != (arguments.labels is None):
        raise ValueError("--images and --labels belong together: give both or neither.")
    networks = [members.load(members.parse(text)) for text in arguments.members]
    volumes = held_out.common_volumes(networks, arguments.images, arguments.labels)
    probabilities, labels, errors = sample(networks, volumes, arguments.seed)
    for name, error in errors.items():
        print(f"Error: {name}: {error}", file=sys.stderr)
    if not labels:
        raise ValueError("No volume could be read, so there is nothing to fit to.")
    weights = fit_weights(probabilities, labels)
    content = {
        # By step: what is best or latest may be another checkpoint tomorrow.
        "members": [
            f"{n.facts['workdir']}@{n.facts['step']}@{n.facts['weights']}" for n in networks
        ],
        "weights": weights.tolist(),
        "fitted_to": [volume.id for volume in volumes if volume.id not in errors],
    }
    for text, weight in zip(arguments.members, weights, strict=True):
        print(f"{weight:.4f}  {text}")
    if len(labels) > 1:
        content["cross_entropy"] = judge(probabilities, labels)
        for name, value in content["cross_entropy"].items():
            print(f"{value:.5f} nats per voxel on volumes left out of the fit: {name}")
        best = min(content["cross_entropy"], key=content["cross_entropy"].get)
        if best != "fitted":
            print(f"On volumes that the weights were not fitted to, '{best}' does better.")
    write_json(arguments.output, content)
    print(f"Ensemble: {arguments.output}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
