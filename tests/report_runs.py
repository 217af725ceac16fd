"""Runs for tests of the report: folders, written without training, and what a folder holds."""

import copy
import json
import re

import numpy as np
import tifffile

from jax_seg.metrics.segmentation import confusion, scores
from jax_seg.ops.classes import MASKED
from jax_seg.runs.run import Run
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from tests.conftest import tiny_config

HOSTILE = '</script><img src=x onerror="alert(1)">&{{data}}'


def labels_of(root):
    paths = sorted((root / "train_labels").glob("*.tif"))
    return {path.stem: tifffile.imread(path) for path in paths}


def make_run(workdir, data, *, shift=0.0, change=None, hostile=False):
    """The folder of a finished run that saw v0 to v2, without training one."""
    config = tiny_config(data)
    config.train.epochs = 6
    config.schedule.update(name="cosine_restarts", warmup_epochs=1, t_0=2, t_mult=1)
    config.average.update(swa_every=1, swa_start=4)
    config.optimizer.clip_norm = 0.5
    if hostile:
        config.plateau.rule = HOSTILE
    if change:
        change(config)
    write_json(workdir / "config.json", configuration.as_dict(config))
    judged = {}
    generator = np.random.default_rng(5)
    for number, (name, label) in enumerate(list(labels_of(data).items())[:3]):
        noise = generator.uniform(-0.2, 0.3 + 0.2 * number + shift, label.shape)
        probability = np.clip((label == 1) * 0.6 + noise, 0, 1).astype(np.float16)
        path = workdir / "validation" / "probabilities" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, probability, compression="zlib")
        judged[name] = confusion(probability > 0.5, np.where(label == 2, MASKED, label))
    volumes = {name: scores(c) | {"labelled": int(c.labelled)} for name, c in judged.items()}
    write_json(workdir / "validation" / "scores.json", {"step": 60, "volumes": volumes})
    pooled = scores(sum(judged.values()))
    write_json(workdir / "scores.json", {"raw": {"step": 60, **pooled}})
    (workdir / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events(shift)))
    return workdir


def make_run_of_classes(workdir, data):
    """A run with the classes 1 and 2, and {id: (label with MASKED, mask that it predicted)}."""
    folders = {"images": str(data / "train_images"), "labels": str(workdir / "labels")}
    classes = {"classes": ("sheet=1", "crust=2"), "ignore": (3,)}
    make_run(workdir, data, change=lambda config: config.data.update(classes | folders))
    volumes = {}
    for name, label in labels_of(data).items():
        mask = np.roll(label, (1, 2, 3), (0, 1, 2))
        rows = mask[:, ::2]
        rows[rows == 2] = 1  # one class in place of another
        label = np.where(np.arange(label.shape[2]) > 15, np.uint8(3), label)
        for folder, array in (("labels", label), ("validation/masks", mask)):
            path = workdir / folder / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array, compression="lzw")
        volumes[name] = np.where(label == 3, np.uint8(MASKED), label), mask
    return workdir, volumes


def events(shift=0.0):
    def at(epoch, kind, **figures):
        return {"kind": kind, "step": 10 * epoch + 10, "epoch": epoch, **figures}

    for epoch in range(6):
        loss = 1 / (epoch + 1) + shift
        optimizing = {
            "gradient_norm": 0.7 / (epoch + 1),
            "learning_rate": 0.1,
            "clipped_share": 0.6,
        }
        yield at(epoch, "train", loss=loss, dice=loss, patches_per_second=3.0, **optimizing)
        yield at(epoch, "validation", loss=loss + 0.1, dice=loss, standard_error=0.01)
    yield at(5, "volumes", dice=0.5, precision=0.4, recall=float("nan"))
    yield at(
        3,
        "decision",
        decision={
            "kind": "rollback",
            "epoch": 3,
            "reason": "plateau",
            "best_epoch": 1,
            "best_loss": 0.25,
            "val_loss": 0.5,
        },
    )


def run_with(events=(), config=None, **fields):
    """A `runs.run.Run` of nothing but what is given."""
    run = Run(None, config or {}, "run")
    given = {"scores": {}, "validation": {}, "volumes": {}, "probabilities": {}, "labelled": {}}
    given |= {
        "tuned": None,
        "chosen": None,
        "examined": None,
        "missing": [],
        "events": list(events),
    }
    vars(run).update(given | fields)  # what would be read from the folder
    return run


def altered(run, **fields):
    """A copy of a run of which the given was read."""
    other = copy.copy(run)
    vars(other).update(fields)
    return other


def losses(*values, error=0.01, train=None):
    """The events of a run with these validation losses, one per epoch."""
    for epoch, loss in enumerate(values):
        fields = {"step": epoch, "epoch": epoch}
        yield {"kind": "validation", "loss": loss, "standard_error": error, **fields}
        yield {"kind": "train", "loss": (train or values)[epoch], **fields}


def rows_of(text):
    """The cells of a table, without markup."""
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in text.split("<tr>")]
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in cells if row]
