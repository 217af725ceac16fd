"""Segment a folder of volumes with a trained model, or with several.

python -m jax_seg.predict --workdir runs/v6 --input FOLDER --output FOLDER
python -m jax_seg.predict --workdir runs/fold_0 runs/fold_1@swa --flips height width …
"""

import argparse
import concurrent.futures
import json
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile

from jax_seg import checkpoint, members, startup
from jax_seg.data.folder import find_images
from jax_seg.data.volumes import open_volume
from jax_seg.files import replacing, write_json
from jax_seg.infer import ensemble, postprocess

DECISIVE = (
    "workdir",
    "step",
    "weights",
    "overlap",
    "members",
    "flips",
    "rotations",
    "threshold",
    "postprocess",
)


def predict_files(segment, decide, images, output, *, settings, probabilities):
    """Segment volumes one after another; meanwhile the next is read and the last written.

    Writes `output/<id>.tif` (uint8 0 or 1, LZW, the input's shape), with `probabilities` also
    `output/probabilities/<id>.tif` (float16), and last `output/<id>.json`, which says how they
    were made.

    Args:
      segment: volume [D, H, W] -> logits [D, H, W] on the device.
      decide: (logits, volume) -> uint8 [D, H, W].
      images: list of `Volume`.
      output: folder.
      settings: JSON dict for the sidecar.
      probabilities: write them too.

    Yields:
      (id, dict of the sidecar or the error) for each volume, in order.
    """

    def finish(volume, image, logits, started):
        if bool(jnp.isnan(logits).any()):
            raise ValueError(
                f"The network's answer to {volume.image} is not a number: choose another "
                "checkpoint; this one diverged, or computes in a type too small for the image."
            )
        prediction = decide(logits, image)
        facts = {
            "image": str(volume.image),
            "shape": list(image.shape),
            "foreground_share": float(prediction.mean()),
            "seconds": round(time.monotonic() - started, 2),
            **settings,
        }
        maps = np.asarray(jax.nn.sigmoid(logits), np.float16) if probabilities else None
        _write(output, volume.id, prediction, maps, facts)
        return facts

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(_read, images[0].image)] if images else []
        writing = []
        for number, volume in enumerate(images):
            if number + 1 < len(images):
                reading.append(pool.submit(_read, images[number + 1].image))
            try:
                image = reading.pop(0).result()
                started = time.monotonic()
                logits = segment(image).block_until_ready()
                writing.append((volume.id, pool.submit(finish, volume, image, logits, started)))
            except (ValueError, OSError) as error:
                writing.append((volume.id, error))
            if len(writing) > 1:
                yield _written(*writing.pop(0))
        for waiting in writing:
            yield _written(*waiting)


def _read(path):
    reader = open_volume(path)
    return reader.read((0, 0, 0), reader.shape)


def _write(output, name, prediction, probabilities, facts):
    with replacing(output / f"{name}.tif") as beside:
        tifffile.imwrite(beside, prediction, compression="lzw")
    if probabilities is not None:
        with replacing(output / "probabilities" / f"{name}.tif") as beside:
            tifffile.imwrite(beside, probabilities, compression="zlib")
    write_json(output / f"{name}.json", facts)


def _written(name, result):
    if isinstance(result, Exception):
        return name, result
    try:
        return name, result.result()
    except (ValueError, OSError) as error:
        return name, error


def _unfinished(images, output, settings, probabilities):
    """(volumes to do, errors): a finished volume is left out, one made otherwise is an error."""
    to_do, errors = [], {}
    for volume in images:
        sidecar = output / f"{volume.id}.json"
        wanted = [output / f"{volume.id}.tif"]
        wanted += [output / "probabilities" / f"{volume.id}.tif"] if probabilities else []
        if not sidecar.exists() or not all(path.exists() for path in wanted):
            to_do.append(volume)
            continue
        made = json.loads(sidecar.read_text())
        if changed := [key for key in DECISIVE if made.get(key) != settings.get(key)]:
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
        description="Segment volumes with a trained model: uint8 TIFF, 1 is foreground.",
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--workdir",
        nargs="+",
        help="folder of the training run; WORKDIR@STEP, @latest, @swa or @ema chooses from it; "
        "several are averaged",
    )
    chosen.add_argument("--ensemble", type=Path, help="members and weights of jax_seg.fit_ensemble")
    parser.add_argument("--input", required=True, nargs="+", help="folder of volumes, or files")
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
    images, output = find_images(arguments.input), arguments.output
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise ValueError(f"--threshold is {arguments.threshold}; it must lie between 0 and 1.")
    segment, networks, settings = _networks(arguments)
    decide, facts = _decision(arguments, networks)
    settings |= facts | {"predicted_with": checkpoint.code_version()}
    to_do, errors = images, {}
    if not arguments.overwrite:
        to_do, errors = _unfinished(images, output, settings, arguments.probabilities)
    done = len(images) - len(to_do) - len(errors)
    if done:
        print(f"{done} of {len(images)} volumes are finished already and are skipped.")
    results = predict_files(
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
            f"[{number}/{len(images)}] {output / name}.tif: "
            f"{100 * result['foreground_share']:.2f} % foreground, {result['seconds']} s",
            flush=True,
        )
    for name, error in errors.items():
        print(f"Error: {name}: {error}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} of {len(images)} volumes failed.", file=sys.stderr)
    elif arguments.submission:
        _write_submission(arguments.submission, output, [v.id for v in images])
        print(f"Submission: {arguments.submission} ({len(images)} volumes)")
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
    """((logits, image) -> mask, facts): the threshold or the steps that the command line means."""
    if arguments.postprocess:
        steps = None if arguments.postprocess == ["none"] else arguments.postprocess
    else:
        steps = _agreed("post-processing", "--postprocess", [_own_steps(n) for n in networks])
    if steps is None:
        threshold = _threshold(arguments, networks)
        logit = np.log(threshold / (1 - threshold))
        return lambda logits, _: np.asarray(logits > logit, np.uint8), {"threshold": threshold}

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
    return decide, facts


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
