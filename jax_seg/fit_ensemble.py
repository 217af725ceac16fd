"""Fit the weights of an ensemble on volumes that none of its members has seen.

python -m jax_seg.fit_ensemble runs/a runs/b@swa runs/b@12000 --output ensemble.json
python -m jax_seg.predict --ensemble ensemble.json --input FOLDER --output FOLDER

Equal weights, the best member alone and fitted weights are each scored on volumes held out of the
fit, and the best of the three is kept. A member trained on its own validation volumes is refused;
if the volumes passed with --images were used in training, the output says so.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

from jax_seg import tasks
from jax_seg.data.fingerprint import random_places
from jax_seg.infer.ensemble import cross_entropy, fit_weights
from jax_seg.infer.files import FAILURES
from jax_seg.infer.logits import require_numbers
from jax_seg.ops.classes import MASKED
from jax_seg.runs import held_out, members, seen, together
from jax_seg.runs.data_folders import data_folders
from jax_seg.system import outputs, startup
from jax_seg.system.commands import exit_status, report_errors
from jax_seg.system.files import write_json
from jax_seg.system.program import program
from jax_seg.tasks import judged, sources

VOXELS = 100_000  # drawn from each volume, so that memory does not depend on their size


def sample(networks, volumes, seed=0):
    """Probabilities and labels of a random sample of the labelled voxels.

    Args:
      networks: list of `members.Network`.
      volumes: list of labelled `Volume`.
      seed: of the sample.

    Returns:
      ([probabilities [members, voxels] of each volume], [labels [voxels]], {volume id: error}).
    """
    for network in networks:
        tasks.require_one_class(network.fields, network.facts["workdir"])
        if network.fields.get("validate.convention") == members.NNUNET:
            raise ValueError(
                f"{network.facts['workdir']} was imported from nnU-Net, which averages logits, and "
                "weights are fitted to probabilities: name its folds to predict, equally weighted."
            )
    table = together.label_table(networks)
    probabilities, labels, errors = [], [], {}
    for number, volume in enumerate(volumes):
        try:
            image, label = held_out.read_labelled(volume, table)
            generator = np.random.default_rng((seed, number))
            places = random_places(label, lambda section: section != MASKED, VOXELS, generator)
            drawn = [_answer(network, volume, image, places) for network in networks]
        except FAILURES as error:
            errors[volume.id] = str(error)
            continue
        labels.append(label.reshape(-1)[places])
        probabilities.append(np.stack(drawn))
        print(f"{volume.id}: {places.size} voxels for {len(networks)} members", flush=True)
    return probabilities, labels, errors


def _answer(network, volume, image, places):
    logits = np.asarray(network.segment(image, spacing=together.other_spacing(network, volume)))
    require_numbers(logits, volume.image)
    return np.asarray(jax.nn.sigmoid(logits.reshape(-1)[places]))


def choices(probabilities, labels):
    """Three ways to weight the members.

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

    Each volume is scored with weights fitted to the others, so that overfitting is not rewarded.

    Args:
      probabilities, labels: of `sample`, at least two volumes.

    Returns:
      {'equal', 'best member', 'fitted': float}.
    """
    found = {}
    for excluded, (p, y) in enumerate(zip(probabilities, labels, strict=True)):
        others = [n for n in range(len(labels)) if n != excluded]
        fitted = choices([probabilities[n] for n in others], [labels[n] for n in others])
        for name, weights in fitted.items():
            found.setdefault(name, []).append(cross_entropy(weights, p, y))
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("fit_ensemble"),
        description="Fit the weights of an ensemble to the labels of held-out volumes.",
    )
    parser.add_argument(
        "members", nargs="+", help="networks to combine: WORKDIR, WORKDIR@STEP, WORKDIR@swa, …"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="JSON file for predict --ensemble"
    )
    held_out.add_flags(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the sampled voxels (default: 0)"
    )
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _fit(arguments))


def _fit(arguments):
    if len(arguments.members) < 2:
        raise ValueError("An ensemble needs at least two members: name another.")
    inputs = held_out.given(arguments)
    outputs.require_file(arguments.output, "fit_ensemble", inside=inputs)
    networks = [members.load(members.parse(text)) for text in arguments.members]
    for network in networks:
        folders = data_folders(network.fields, network.facts["workdir"])
        outputs.require_apart(arguments.output, inside=folders)
    volumes = held_out.common_volumes(networks, arguments.images, arguments.labels)
    on = seen.by_any(networks, volumes)
    probabilities, labels, errors = sample(networks, volumes, arguments.seed)
    sentences = [f"{name}: {error}" for name, error in errors.items()]
    status = report_errors(sentences, len(volumes), "volumes")
    if not labels:
        raise ValueError("No volume could be read to fit the weights to: correct the errors above.")
    on = {volume.id: on[volume.id] for volume in volumes if volume.id not in errors}
    losses = judge(probabilities, labels) if len(labels) > 1 else {}
    chosen = min(losses, key=losses.get) if losses else "fitted"
    weights = choices(probabilities, labels)[chosen]
    together = judged.weakest(on.values())
    choice = "kind of weights" if losses else "weights"
    content = {
        # By step, since best and latest may name other checkpoints later.
        "members": [
            f"{n.facts['workdir']}@{n.facts['step']}@{n.facts['weights']}" for n in networks
        ],
        "weights": weights.tolist(),
        "digests": [n.facts["digest"] for n in networks],
        "chosen": chosen,
        "cross_entropy": losses,
        "judged_on": together.choosing(choice).as_json(),
        "fitted_to": list(on),
        "sources": sources.record({v.id: (v.image, v.label) for v in volumes if v.id in on}),
    }
    _report(arguments.members, content, on)
    write_json(arguments.output, outputs.marked(content, "fit_ensemble"))
    print(f"Ensemble: {arguments.output}")
    return status


def _report(names, content, on):
    """Print the losses and the weights, and which volumes they rest on.

    Args:
      names: the members as given on the command line.
      content: dict that is written to the file.
      on: {volume id: JudgedOn}.
    """
    together = judged.weakest(on.values())
    for name, value in content["cross_entropy"].items():
        print(f"{value:.5f} nats per voxel on {together.mark()}s held out of the fit: {name}")
    if not content["cross_entropy"]:
        print(f"There is only one {together.mark()}: the weights may not generalise.")
    if trained_on := judged.seen(on):
        print(
            f"A member was trained on {', '.join(trained_on)}: the fit favours it, and its loss "
            "there says nothing about other volumes."
        )
    if together.chose:
        print(f"These volumes were also used to choose a member's {' and '.join(together.chose)}.")
    print(f"Weights ({content['chosen']}):")
    for text, weight in zip(names, content["weights"], strict=True):
        print(f"{weight:.4f}  {text}")


if __name__ == "__main__":
    sys.exit(main())
