"""nnU-Net and ours at equal time, with nothing set by hand but what label values mean.

    python -m benchmarks.nnunet --root FOLDER --minutes 8 --peer PYTHON [--patch 16 96 96]

PYTHON is an interpreter with nnunetv2. Both train on the same volumes of a fold for the same time,
one after the other; the whole volumes held out are scored by the same code. nnU-Net uses its
default plan, or with --patch that plan shrunk to a CPU; its prediction averages eight mirrored
versions, as is its default, unless --unmirrored. Ours is `configs/auto.py`, or with --config
another configuration whose epochs are made to fill the time, and predicts once.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from jax_seg.data import folds, labels
from jax_seg.data.folder import find_images, find_volumes
from jax_seg.data.readers import read_volume
from jax_seg.metrics import segmentation
from jax_seg.metrics.competition import competition_score
from jax_seg.ops.classes import MASKED, members
from jax_seg.system.files import read_json, write_json

ROOT = Path(__file__).parents[1]
AUTO = "configs/auto.py"
DATASET = Path("raw") / "Dataset001_data"


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder of labelled volumes")
    parser.add_argument("--peer", help="interpreter with nnunetv2; without it ours runs alone")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--foreground", type=int, nargs="+", default=[1])
    text = "several classes instead, as anterior=1 posterior=2"
    parser.add_argument("--classes", nargs="+", default=[], help=text)
    parser.add_argument("--ignore", type=int, nargs="*", default=[2])
    parser.add_argument("--spacing", type=float, nargs=3, default=[1, 1, 1], help="for nnU-Net")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs=3, help="shrinks nnU-Net's plan to this patch")
    parser.add_argument("--features", type=int, default=16, help="of nnU-Net with --patch")
    parser.add_argument("--config", default=AUTO, help="ours")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    text = "also score the masks by the competition's rules"
    parser.add_argument("--competition", action="store_true", help=text)
    text = "leave ours out, as where only nnU-Net's plan is another"
    parser.add_argument("--peer_alone", action="store_true", help=text)
    text = "nnU-Net predicts once, as ours does, instead of eight mirrored versions"
    parser.add_argument("--unmirrored", action="store_true", help=text)
    arguments = parser.parse_args(argv)
    if arguments.peer_alone and not arguments.peer:
        parser.error("--peer_alone trains nnU-Net, whose interpreter --peer must name")
    if arguments.unmirrored and not arguments.peer:
        parser.error("--unmirrored is for nnU-Net, whose interpreter --peer must name")
    for number, seed in enumerate(arguments.seeds):
        runs = [] if arguments.peer_alone else [("ours", ours)]
        runs += [("nnU-Net", peer)] if arguments.peer else []
        for name, run in runs[:: 1 - 2 * (number % 2)]:  # the order alternates
            with tempfile.TemporaryDirectory() as folder:
                said, updates = run(arguments, seed, Path(folder))
            print(f"seed {seed}, {name}: {said} after {updates} updates", flush=True)
    return 0


def ours(arguments, seed, folder):
    """(scores of the volumes held out in words, updates) of our run, by its averaged weights."""
    command = [sys.executable, "launch.py", f"--config={arguments.config}"]
    values = {
        "data.root": arguments.root,
        "data.foreground": tuple(arguments.foreground),
        "data.ignore": tuple(arguments.ignore),
        "data.folds": arguments.folds,
        "train.minutes": arguments.minutes,
        "seed": seed,
    }
    if arguments.classes:
        del values["data.foreground"]
        values |= {"data.classes": tuple(arguments.classes)}
        values |= {"model.out_channels": len(arguments.classes)}
    if arguments.config != AUTO:  # which sets these by itself
        values |= {"train.epoch_length": "minutes", "validate.volumes_every": 0}
    command += [f"--config.{field}={value}" for field, value in values.items()]
    run = folder / "run"
    subprocess.run([*command, f"--workdir={run}", "--doctor=off"], check=True, cwd=ROOT)
    volumes, held_out, _, table = _data(arguments)
    images = [volume.image for volume in volumes if volume.id in held_out]
    masks = folder / "masks"
    scores = read_json(run / "scores.json")
    # The average is what a run is meant to be used with; it was chosen on nothing.
    weights = "ema" if "ema" in scores else "raw"
    network = f"{run}@ema" if weights == "ema" else str(run)
    command = [sys.executable, "-m", "jax_seg.predict", "--workdir", network]
    command += ["--input", *images, "--output", masks]
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
    found = {volume.id: read_volume(volume.image) for volume in find_images(masks)}
    if arguments.classes:  # they hold label values
        found = {id: labels.encode(mask, table, id) for id, mask in found.items()}
    return _judged(arguments, volumes, table, found), scores[weights]["step"]


def peer(arguments, seed, folder):
    """The same of nnU-Net."""
    volumes, held_out, training, table = _data(arguments)
    write_data(volumes, table, arguments.spacing, folder / DATASET, bool(arguments.ignore))
    write_json(folder / "split.json", {"train": list(training), "val": list(held_out)})
    command = [arguments.peer, "-m", "benchmarks.nnunet_peer", folder]
    command += ["--minutes", arguments.minutes, "--seed", seed]
    if arguments.patch:
        command += ["--patch", *arguments.patch, "--features", arguments.features]
    command += ["--unmirrored"] if arguments.unmirrored else []
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)
    told = json.loads((folder / "peer.json").read_text())
    found = {id: tifffile.imread(Path(told["masks"]) / f"{id}.tif") for id in held_out}
    return _judged(arguments, volumes, table, found), told["updates"]


def _data(arguments):
    """(volumes, ids held out, ids of the others, `LabelTable`), as our run divides them."""
    volumes = find_volumes(arguments.root)
    training, held_out = folds.split(
        [v.id for v in volumes],
        [v.scroll_id for v in volumes],
        fold=0,
        folds=arguments.folds,
        seed=0,
    )
    table = labels.label_table(
        foreground=tuple(arguments.foreground),
        ignore=tuple(arguments.ignore),
        background=(0,),
        classes=tuple(arguments.classes),
    )
    return volumes, held_out, training, table


def _judged(arguments, volumes, table, found):
    """Scores of {id: codes as predicted}, in words."""
    counts, competition = [], []
    for volume in (v for v in volumes if v.id in found):
        label = labels.encode(read_volume(volume.label), table, volume.label)
        inside = members(found[volume.id].reshape(*label.shape, 1), table.classes)
        inside = inside if len(table.classes.names) > 1 else inside[..., 0]
        counts.append(segmentation.count(inside, label, table.classes))
        if arguments.competition:
            competition.append(competition_score(inside.astype(np.uint8), label).score)
    scores = segmentation.scores(sum(counts))
    of_class = scores.get("classes", {"": scores})
    words = ", ".join(f"Dice {name} {one['dice']:.4f}" for name, one in of_class.items())
    if competition:
        words += f", competition {np.mean(competition):.4f}"
    return words


def write_data(volumes, table, spacing, folder, ignores):
    """Write volumes in nnU-Net's layout: TIFF, its spacing in JSON beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    for volume in volumes:
        label = labels.encode(read_volume(volume.label), table, volume.label)
        label[label == MASKED] = len(table.classes.names) + 1  # nnU-Net wants its highest value
        for part, name, voxels in (
            ("imagesTr", f"{volume.id}_0000", read_volume(volume.image)),
            ("labelsTr", volume.id, label),
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / part / f"{name}.tif", np.asarray(voxels))
            write_json(folder / part / f"{volume.id}.json", {"spacing": list(spacing)})
    names = ["background", *table.classes.names, *(["ignore"] if ignores else [])]
    names = {name: number for number, name in enumerate(names)}
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "image"},
            "labels": names,
            "numTraining": len(volumes),
            "file_ending": ".tif",
        },
    )


if __name__ == "__main__":
    sys.exit(main())
