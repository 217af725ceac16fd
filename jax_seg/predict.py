"""Segment a folder of volumes or of images with a trained model, or with several.

python -m jax_seg.predict --workdir runs/v6 --input FOLDER --output FOLDER
python -m jax_seg.predict --workdir runs/fold_0 runs/fold_1@swa --flips height width …

Volumes become masks, images grey maps of the probability, each kind as `infer/kinds.py` says.
"""

import argparse
import concurrent.futures
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile

from jax_seg.data.readers import pictures
from jax_seg.infer import ensemble, postprocess
from jax_seg.runs import checkpoints, members
from jax_seg.system import startup
from jax_seg.system.files import read_json, replacing, stamp, write_json
from jax_seg.tasks.kinds import IMAGES, VOLUMES

DECISIVE = (
    "workdir",
    "step",
    "weights",
    "digest",
    "overlap",
    "members",
    "flips",
    "rotations",
    "threshold",
    "postprocess",
)
FAILURES = (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError)
"""Of one file; the others are segmented all the same."""


def predict_files(kind, segment, decide, found, output, *, settings, probabilities):
    """Segment files one after another; meanwhile the next is read and the last written.

    Of a volume it writes `output/<id>.tif` (uint8 0 or 1, LZW, the input's shape), with
    `probabilities` also `output/probabilities/<id>.tif` (float16); of an image `output/<id>.png`
    (8 bits, 255 where the object is certain); and last `output/<id>.json`, which says how they were
    made.

    Args:
      kind: `kinds.Kind`.
      segment: array as read -> logits [D, H, W] on the device.
      decide: (logits, array) -> uint8 [D, H, W].
      found: list of what `kind.find` gives.
      output: folder.
      settings: JSON dict for the sidecar.
      probabilities: write them too.

    Yields:
      (id, dict of the sidecar or the error) for each volume, in order.
    """

    def read(volume):
        # The stamp first: a file that is replaced meanwhile counts as another.
        return stamp(volume.image), kind.read(volume.image)

    def finish(volume, stamped, image, logits, started):
        if bool(jnp.isnan(logits).any()):
            raise ValueError(
                f"The network's answer to {volume.image} is not a number: choose another "
                "checkpoint; this one diverged, or computes in a type too small for the image."
            )
        prediction = decide(logits, image)
        facts = {
            "image": str(volume.image),
            "image_stamp": stamped,
            "shape": list(prediction.shape),
            "foreground_share": float(prediction.mean()) / (255 if kind is IMAGES else 1),
            "seconds": round(time.monotonic() - started, 2),
            **settings,
        }
        maps = np.asarray(jax.nn.sigmoid(logits), np.float16) if probabilities else None
        kind.write(output / (volume.id + kind.suffix), prediction)
        if maps is not None:
            with replacing(output / "probabilities" / f"{volume.id}.tif") as beside:
                tifffile.imwrite(beside, maps, photometric="minisblack", compression="zlib")
        write_json(output / f"{volume.id}.json", facts)
        return facts

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(read, found[0])] if found else []
        writing = []
        for number, volume in enumerate(found):
            if number + 1 < len(found):
                reading.append(pool.submit(read, found[number + 1]))
            try:
                stamped, image = reading.pop(0).result()
                started = time.monotonic()
                logits = segment(image).block_until_ready()
                task = pool.submit(finish, volume, stamped, image, logits, started)
                writing.append((volume.id, task))
            except FAILURES as error:
                writing.append((volume.id, error))
            if len(writing) > 1:
                yield _written(*writing.pop(0))
        for waiting in writing:
            yield _written(*waiting)


def _written(name, result):
    if not isinstance(result, Exception):
        try:
            return name, result.result()
        except FAILURES as error:
            result = error
    if isinstance(result, MemoryError | jax.errors.JaxRuntimeError):
        first, *_ = (str(result) or "no memory").splitlines()
        result = ValueError(
            f"The device or the machine refused it ({first}): where memory ended, try --windows 1, "
            "fewer --flips, or a part of the volume."
        )
    return name, result


def _unfinished(kind, found, output, settings, probabilities):
    """(files to do, errors): a finished one is left out, one made otherwise is an error."""
    to_do, errors = [], {}
    for volume in found:
        sidecar = output / f"{volume.id}.json"
        wanted = [output / (volume.id + kind.suffix)]
        wanted += [output / "probabilities" / f"{volume.id}.tif"] if probabilities else []
        if not sidecar.exists() or not all(path.exists() for path in wanted):
            to_do.append(volume)
            continue
        made = read_json(sidecar)
        changed = [key for key in DECISIVE if made.get(key) != settings.get(key)]
        if made.get("image_stamp") != stamp(volume.image):
            changed.append("image")
        if changed:
            errors[volume.id] = ValueError(
                f"{wanted[0]} was made with another {', '.join(changed)}; pass --overwrite to make "
                "it again, or another --output."
            )
    return to_do, errors


def _write_submission(path, output, names):
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name in names:
            archive.write(output / f"{name}.tif", f"{name}.tif")


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_seg.predict",
        description="Segment volumes with a trained model: uint8 TIFF, 1 is foreground; or images: "
        "PNG, 255 where the object is certain.",
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--workdir",
        nargs="+",
        help="folder of the training run; WORKDIR@STEP, @latest, @swa or @ema chooses from it; "
        "several are averaged",
    )
    chosen.add_argument("--ensemble", type=Path, help="members and weights of jax_seg.fit_ensemble")
    parser.add_argument(
        "--input", required=True, nargs="+", help="folder of volumes or images, or files"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the predictions")
    parser.add_argument("--checkpoint", default="", help="best, latest or a step")
    parser.add_argument("--weights", default="", choices=members.WEIGHTS)
    parser.add_argument("--member_weights", type=float, nargs="+", help="of the average")
    parser.add_argument(
        "--flips", nargs="+", default=(), choices=ensemble.AXES, help="average over these too"
    )
    parser.add_argument(
        "--rotations", action="store_true", help="and over quarter turns of height and width"
    )
    parser.add_argument("--threshold", type=float, help="on the probability; by default the run's")
    parser.add_argument("--overlap", type=float, help="of windows, in [0, 1); by default the run's")
    parser.add_argument("--windows", type=int, help="windows per call; by default the run's")
    parser.add_argument(
        "--postprocess",
        nargs="+",
        metavar="STEP",
        help="as remove_small:voxels=100, or 'none'; by default what was tuned for the run",
    )
    parser.add_argument("--probabilities", action="store_true", help="write them too, float16")
    parser.add_argument("--submission", type=Path, help="zip of all predictions")
    parser.add_argument("--overwrite", action="store_true", help="make finished volumes again")
    arguments = parser.parse_args(argv)
    startup.prepare()
    try:
        return _predict(arguments)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _predict(arguments):
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise ValueError(f"--threshold is {arguments.threshold}; it must lie between 0 and 1.")
    segment, networks, settings = _networks(arguments)
    kind, decide, facts = _decision(arguments, networks)
    found, output = kind.find(arguments.input), arguments.output
    settings |= facts | {"predicted_with": checkpoints.code_version()}
    to_do, errors = found, {}
    if not arguments.overwrite:
        to_do, errors = _unfinished(kind, found, output, settings, arguments.probabilities)
    done = len(found) - len(to_do) - len(errors)
    if done:
        print(f"{done} of {len(found)} {kind.name} are finished already and are skipped.")
    results = predict_files(
        kind,
        segment,
        decide,
        to_do,
        output,
        settings=settings,
        probabilities=arguments.probabilities,
    )
    for number, (name, result) in enumerate(results, done + len(errors) + 1):
        if isinstance(result, Exception):
            errors[name] = result
            continue
        print(
            f"[{number}/{len(found)}] {output / name}{kind.suffix}: "
            f"{100 * result['foreground_share']:.2f} % foreground, {result['seconds']} s",
            flush=True,
        )
    for name, error in errors.items():
        print(f"Error: {name}: {error}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} of {len(found)} {kind.name} failed.", file=sys.stderr)
    elif arguments.submission:
        _write_submission(arguments.submission, output, [v.id for v in found])
        print(f"Submission: {arguments.submission} ({len(found)} volumes)")
    return 1 if errors else 0


def _networks(arguments):
    """(volume -> logits, [Network], facts) that the command line names."""
    options = {k: getattr(arguments, k) for k in ("overlap", "windows", "flips", "rotations")}
    if not arguments.ensemble:
        named = [members.parse(text) for text in arguments.workdir]
        chosen = [
            member._replace(
                checkpoint=member.checkpoint or arguments.checkpoint,
                weights=member.weights or arguments.weights,
            )
            for member in named
        ]
        return members.load_together(chosen, arguments.member_weights, **options)
    if arguments.checkpoint or arguments.weights or arguments.member_weights:
        raise ValueError(
            "--ensemble says which checkpoints are averaged, and how: leave --checkpoint, "
            "--weights and --member_weights out, or name the members with --workdir."
        )
    return members.load_together(*members.read_ensemble(arguments.ensemble), **options)


def _decision(arguments, networks):
    """(Kind, (logits, image) -> prediction, facts): what the command line and the networks mean."""
    kinds = {members.of_images(network.fields) for network in networks}
    if kinds == {True, False}:
        raise ValueError("Some of the members are of images, others of volumes: name one kind.")
    if kinds == {True}:
        for flag in ("threshold", "postprocess", "probabilities", "submission"):
            if getattr(arguments, flag):
                raise ValueError(
                    f"--{flag} is for volumes: images become grey maps of the probability."
                )
        return IMAGES, lambda logits, _: pictures.as_map(np.asarray(jax.nn.sigmoid(logits))), {}
    if arguments.postprocess:
        steps = None if arguments.postprocess == ["none"] else arguments.postprocess
    else:
        steps = _agreed("post-processing", "--postprocess", [_own_steps(n) for n in networks])
    if steps is None:
        threshold = _threshold(arguments, networks)
        logit = np.log(threshold / (1 - threshold))
        return (
            VOLUMES,
            lambda logits, _: np.asarray(logits > logit, np.uint8),
            {"threshold": threshold},
        )

    if not steps or postprocess.parse(steps[0])[0] not in postprocess.FIRST:
        steps = postprocess.after_threshold(steps, _threshold(arguments, networks))
    elif arguments.threshold is not None:
        print(f"--threshold {arguments.threshold:g} takes the place of the step {steps[0]}.")
        steps = postprocess.after_threshold(steps[1:], arguments.threshold)
    (first, parameters), *_ = postprocess.parse_all(steps)

    def decide(logits, image):
        return postprocess.apply(np.asarray(jax.nn.sigmoid(logits)), image, steps)

    facts = {"postprocess": list(steps)}
    if first == "threshold":
        facts |= {"threshold": (postprocess.defaults(first) | parameters)["value"]}
    return VOLUMES, decide, facts


def _threshold(arguments, networks):
    if arguments.threshold is not None:
        return arguments.threshold
    thresholds = [network.fields["validate.threshold"] for network in networks]
    return _agreed("threshold", "--threshold", thresholds)


def _own_steps(network):
    """Steps that were tuned for a run, else those of its configuration, else None."""
    tuned = postprocess.read_steps(network.facts["workdir"])
    return (network.fields.get("postprocess.steps") or None) if tuned is None else tuned


def _agreed(what, flag, values):
    if any(value != values[0] for value in values):
        given = ", ".join(str(value) for value in values)
        raise ValueError(f"The members differ in their {what} ({given}): choose with {flag}.")
    return values[0]


if __name__ == "__main__":
    sys.exit(main())
