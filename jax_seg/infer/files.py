"""Segment files one after another, reading the next and writing the last in the background."""

import concurrent.futures
import re
import time

import jax
import numpy as np

from jax_seg.data.writers import write_tiff
from jax_seg.infer import sidecar
from jax_seg.infer.logits import require_numbers
from jax_seg.ops.classes import probabilities_of
from jax_seg.system import memory
from jax_seg.system.files import stamp
from jax_seg.system.outputs import written_by

FAILURES = (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError)
"""Errors of one file; the others are still segmented."""
_NO_NAME = re.compile(r"[^\w.-]+")  # in the name of a folder, on whatever disk


class Unwritable(OSError):
    """A prediction could not be written, so neither could the next."""


def map_folders(classes):
    """Folders, within that of the predictions, of the probabilities of each of `Classes`.

    ValueError where the names of two differ only in what no folder's name may have.
    """
    if len(classes.names) < 2:
        return ("probabilities",)
    folders = tuple(f"probabilities/{_NO_NAME.sub('_', name)}" for name in classes.names)
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"The probabilities of two of the classes {', '.join(classes.names)} would share a "
            "folder: give the classes names that differ in letters or digits."
        )
    return folders


def predict_files(kind, segment, decide, inspect, found, output, *, settings, maps_of=None):
    """Segment files one after another, reading the next and writing the last in the background.

    For a volume it writes `output/<id>.tif` (0 and 1, or the values of several classes; LZW; of
    NIfTI, NRRD, MRC, HDF5 and N5 in the input's format), with `maps_of` also
    `output/probabilities/<id>.tif` (float16; of several classes `probabilities/<class>/<id>.tif`);
    for an image `output/<id>.png` (8 bits, 255 where the
    object is certain); and last `output/<id>.json`, the sidecar.

    Args:
      kind: `kinds.Kind`.
      segment: (one of `found`, array as read) -> logits [D, H, W] on the device.
      decide: (logits, array) -> integers [D, H, W].
      inspect: (one of `found`, array) -> dict of JSON types about the input, for the sidecar.
      found: list of what `kind.find` gives.
      output: folder.
      settings: JSON dict for the sidecar.
      maps_of: `Classes` whose probabilities are written, too; None for none.

    Yields:
      (id, dict of the sidecar or the error) for each, in order. An `Unwritable` ends it: the
      remaining files are not segmented.
    """

    def read(volume):
        # Running out of memory may kill the process, and lose the other volumes.
        memory.require(kind.needs(volume.image), volume.image, "predict it")
        # The stamp first: a file that is replaced during prediction counts as a different one.
        stamped, image = stamp(volume.image), kind.read(volume.image)
        return {"image_stamp": stamped, **inspect(volume, image)}, image

    def finish(volume, about, image, logits, started):
        require_numbers(logits, volume.image)
        prediction = decide(logits, image)
        maps = _maps(logits, maps_of) if maps_of else {}
        facts = {
            "image": str(volume.image),
            "shape": list(prediction.shape),
            "foreground_share": _share(prediction, kind),
            "seconds": round(time.monotonic() - started, 2),
            **about,
            **settings,
        }
        return _write(kind, output, volume, prediction, maps, facts)

    needed = [bytes_needed(kind, volume) for volume in found]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reading, writing = [], []
        for number, volume in enumerate(found):
            if not reading:  # memory does not hold this one beside those before it
                concurrent.futures.wait([one for _, one in writing if hasattr(one, "result")])
                reading.append(pool.submit(read, volume))
            if sum(needed[number : number + 2]) <= memory.available() and found[number + 1 :]:
                reading.append(pool.submit(read, found[number + 1]))
            try:
                about, image = reading.pop(0).result()
                started = time.monotonic()
                logits = segment(volume, image).block_until_ready()
                task = pool.submit(finish, volume, about, image, logits, started)
                del logits  # on a device: the next volume needs the room
                writing.append((volume.id, task))
            except FAILURES as error:
                writing.append((volume.id, error))
            if len(writing) > 1:
                name, result = _result(*writing.pop(0))
                yield name, result
                if isinstance(result, Unwritable):
                    break
        for waiting in writing:
            yield _result(*waiting)


def _maps(logits, classes):
    """{folder: probabilities, float16 [D, H, W]} of each class."""
    folders = map_folders(classes)
    if len(folders) == 1:
        return {folders[0]: np.asarray(jax.nn.sigmoid(logits), np.float16)}
    each = np.asarray(probabilities_of(logits, classes), np.float16)
    return {folder: each[..., number] for number, folder in enumerate(folders)}


def bytes_needed(kind, volume):
    """Bytes of memory to predict a volume; 0 of a damaged one, which whoever reads it reports."""
    try:
        return kind.needs(volume.image)
    except (ValueError, OSError):
        return 0


def _share(prediction, kind):
    """Share of foreground: the mean probability of a map, else that of voxels not 0."""
    if kind.as_map:
        return float(prediction.mean()) / kind.certain
    return np.count_nonzero(prediction) / prediction.size


def _write(kind, output, volume, prediction, maps, facts):
    """Write the files of one prediction; returns the sidecar's content."""
    name = volume.id
    files = sidecar.files_of(name, kind.suffix(volume.image), maps)
    try:
        # First, so that a kill in between leaves no sidecar that describes other files.
        sidecar.path_of(output, name).unlink(missing_ok=True)
        kind.write(output / files[0], prediction, volume.image)
        for file, voxels in zip(files[1:], maps.values(), strict=True):
            origin = written_by("predict")
            write_tiff(output / file, voxels, compression="zlib", origin=origin)
        return sidecar.write(output, name, files, facts)
    except OSError as error:
        raise Unwritable(
            f"{output / files[0]} cannot be written ({error.strerror or error}): free space "
            "there, then run the same command to resume."
        ) from error


def _result(name, result):
    """(name, the facts that a task returns, or its error as a sentence)."""
    if not isinstance(result, Exception):
        try:
            return name, result.result()
        except FAILURES as error:
            result = error
    if isinstance(result, MemoryError | jax.errors.JaxRuntimeError):
        first, *_ = (str(result) or "out of memory").splitlines()
        result = ValueError(
            f"The device failed ({first}): if it ran out of memory, try --windows 1, or "
            "predict this volume block by block, to an --output that ends in .zarr."
        )
    return name, result
