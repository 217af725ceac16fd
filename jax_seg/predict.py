"""Segment a folder of volumes with a trained model.

python -m jax_seg.predict --workdir runs/v6 --input FOLDER --output FOLDER
"""

import argparse
import concurrent.futures
import functools
import json
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import tifffile

from jax_seg import checkpoint, models, startup
from jax_seg import config as configuration
from jax_seg.data.folder import find_images
from jax_seg.data.preprocess import Preprocessing
from jax_seg.data.volumes import open_volume
from jax_seg.files import replacing, write_json
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.step import make_network


def load(workdir, name="best", weights="raw"):
    """A trained network, ready to run.

    Args:
      workdir: folder of a training run or of `jax_seg.convert`.
      name: 'best', 'latest' or a step.
      weights: 'raw', 'swa' or 'ema'.

    Returns:
      (network, config, facts): network is image [B, *patch, 1] as stored -> logits, jitted; config
      the run's `config.Reader`; facts what names the model: step, epoch, code version.

    Raises:
      FileNotFoundError, ValueError: there is no such run, checkpoint or average.
    """
    params, stored, step = checkpoint.read_params(workdir, name, weights)
    config = configuration.Reader(configuration.from_dict(stored["config"]))
    model = models.build(**config.section("model"))
    network = make_network(model, Preprocessing(**stored["preprocessing"]))
    facts = {
        "workdir": str(Path(workdir).absolute()),
        "step": step,
        "epoch": stored["epoch"],
        "weights": weights,
    }
    facts["trained_with"] = stored["code_version"]
    return functools.partial(network, params), config, facts


def predict_files(
    network, images, output, *, settings, patch, overlap, windows, threshold, probabilities
):
    """Segment volumes one after another; meanwhile the next is read and the last written.

    Writes `output/<id>.tif` (uint8 0 or 1, LZW, the input's shape), with `probabilities` also
    `output/probabilities/<id>.tif` (float16), and last `output/<id>.json`, which says how they
    were made.

    Args:
      network: image [windows, *patch, 1] -> logits.
      images: list of `Volume`.
      output: folder.
      settings: JSON dict for the sidecar.
      patch, overlap, windows: of `predict_volume`.
      threshold: on the probability.
      probabilities: write them too.

    Yields:
      (id, dict of the sidecar or the error) for each volume, in order.
    """
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(_read, images[0].image)] if images else []
        writing = []
        for number, volume in enumerate(images):
            if number + 1 < len(images):
                reading.append(pool.submit(_read, images[number + 1].image))
            try:
                image = reading.pop(0).result()
                started = time.monotonic()
                logits = predict_volume(network, image, patch=patch, overlap=overlap, batch=windows)
                prediction = np.asarray(logits > np.log(threshold / (1 - threshold)), np.uint8)
                maps = np.asarray(jax.nn.sigmoid(logits), np.float16) if probabilities else None
                facts = {
                    "image": str(volume.image),
                    "shape": list(image.shape),
                    "foreground_share": float(prediction.mean()),
                    "seconds": round(time.monotonic() - started, 2),
                    **settings,
                }
                writing.append(
                    (volume.id, pool.submit(_write, output, volume.id, prediction, maps, facts))
                )
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
    return facts


def _written(name, result):
    if isinstance(result, Exception):
        return name, result
    try:
        return name, result.result()
    except OSError as error:
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
        decisive = ("workdir", "step", "weights", "threshold", "overlap")
        if changed := [k for k in decisive if made.get(k) != settings[k]]:
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
    parser.add_argument("--workdir", required=True, help="folder of the training run")
    parser.add_argument("--input", required=True, nargs="+", help="folder of volumes, or files")
    parser.add_argument("--output", required=True, type=Path, help="folder for the predictions")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    parser.add_argument("--weights", default="raw", choices=("raw", "swa", "ema"))
    parser.add_argument("--threshold", type=float, help="on the probability; by default the run's")
    parser.add_argument("--overlap", type=float, help="of windows, in [0, 1); by default the run's")
    parser.add_argument("--windows", type=int, help="windows per call; by default the run's")
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
    images = find_images(arguments.input)
    network, config, settings = load(arguments.workdir, arguments.checkpoint, arguments.weights)
    chosen = {
        name: getattr(config.validate, name) if value is None else value
        for name, value in (
            ("threshold", arguments.threshold),
            ("overlap", arguments.overlap),
            ("windows", arguments.windows),
        )
    }
    if not 0 < chosen["threshold"] < 1:
        raise ValueError(f"--threshold is {chosen['threshold']}; it must lie between 0 and 1.")
    settings |= {"threshold": chosen["threshold"], "overlap": chosen["overlap"]}
    settings["predicted_with"] = checkpoint.code_version()
    output = arguments.output
    to_do, errors = images, {}
    if not arguments.overwrite:
        to_do, errors = _unfinished(images, output, settings, arguments.probabilities)
    done = len(images) - len(to_do) - len(errors)
    if done:
        print(f"{done} of {len(images)} volumes are finished already and are skipped.")
    results = predict_files(
        network,
        to_do,
        output,
        settings=settings,
        patch=tuple(config.data.patch),
        probabilities=arguments.probabilities,
        **chosen,
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


if __name__ == "__main__":
    sys.exit(main())
