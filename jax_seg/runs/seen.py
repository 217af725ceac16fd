"""How volumes relate to a trained network: seen in training, held out, or unknown."""

import filecmp
import warnings
from pathlib import Path

from jax_seg.runs import held_out
from jax_seg.system.files import channel_files, read_json
from jax_seg.tasks import judged, sources

CHOSEN_BY = {"steps": "tune", "weights": "fit_ensemble"}


def judged_on(network, volumes):
    """How volumes relate to a network's weights, regardless of the folder they were found in.

    A volume counts as one of the run's if both its id and its bytes match: generated volumes,
    and those of many data sets, share ids.

    Args:
      network: Network.
      volumes: list of Volume, or of Example.

    Returns:
      {id: JudgedOn}.
    """
    validation, trained_on = set(network.validation_ids or ()), set(network.trained_on or ())
    named = {volume.id for volume in volumes} & (validation | trained_on)
    own = _own_images(network) if named else {}
    found = {}
    for volume in volumes:
        if network.trained_on is None or (volume.id in named and volume.id not in own):
            found[volume.id] = judged.JudgedOn()
        elif volume.id not in named or not _same_file(own[volume.id], volume.image):
            found[volume.id] = judged.JudgedOn(judged.HELD_OUT)
        elif volume.id in trained_on:
            choice = network.judged_on.chose if volume.id in validation else ()
            found[volume.id] = judged.JudgedOn(judged.TRAINING, choice)
        else:
            found[volume.id] = network.judged_on
    return found


def by_any(networks, volumes):
    """How volumes relate to several networks together: {id: JudgedOn}."""
    found = [judged_on(network, volumes) for network in networks]
    return {v.id: judged.weakest(one[v.id] for one in found) for v in volumes}


def reservation(path, choice):
    """Cautions about a choice, a line each; '' if it holds for other volumes, and is up to date.

    Args:
      path: the JSON file written by `jax_seg.tune` or `jax_seg.fit_ensemble`.
      choice: 'steps' or 'weights'.
    """
    on = judged.read(read_json(path).get("judged_on", {}))
    changed = outdated(path, choice)
    cautions = f"Warning: {changed}\n" if changed else ""
    if on.volumes == judged.TRAINING:
        cautions += (
            f"The {choice} of {path} were chosen on training volumes, so they may not suit others: "
            "choose them on held-out volumes.\n"
        )
    elif choice in on.chose:
        cautions += (
            f"The {choice} of {path} were chosen on one volume, so they may not suit others.\n"
        )
    return cautions


def outdated(path, choice):
    """What changed in the volumes since a choice was made on them, see `sources.since`.

    Args:
      path, choice: of `reservation`.
    """
    moment, command = f"the {choice} of {path} were chosen", CHOSEN_BY[choice]
    return sources.since(read_json(path), moment, f"run jax_seg.{command} again")


def _own_images(network):
    """{id: path} of the images of a network's data set; empty if they no longer exist."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run has reported what it does not read
            found = held_out.labelled(network.fields, network.facts["workdir"])
    except (FileNotFoundError, ValueError):
        return {}
    return {name: one.image for name, one in found.items()}


def _same_file(one, other):
    one, other = Path(one), Path(other)
    if one.resolve() == other.resolve():
        return True
    pairs = channel_files(one), channel_files(other)
    return len(pairs[0]) == len(pairs[1]) and all(
        a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False)
        for a, b in zip(*pairs, strict=True)
    )
