"""Generated scrolls as arrays and as a folder of TIFF files.

python -m jax_seg.data.synthetic OUT --volumes 8 --size 160 --test 2
"""

import argparse
import os
import shutil
import sys

import numpy as np
import tifffile

from jax_seg.data.scroll import scroll_volume, volume_shape
from jax_seg.system.commands import exit_status
from jax_seg.system.files import read_json, refuse_address, write_json, writing
from jax_seg.system.outputs import is_own, marked

SCROLLS = 4
RECORD = "synthetic.json"
"""Lists the files of a generated folder with their sizes; only these are replaced."""


def volumes(count, size=96, seed=0, **parameters):
    """Volumes of SCROLLS scrolls in turn: those of one scroll share its winding and scanner.

    Args:
      count: number of volumes; the first ones do not depend on it.
      size: as in `scroll_volume`.
      seed: non-negative int.
      **parameters: of `scroll_volume`, to fix for all scrolls.

    Returns:
      Iterator of (id, scroll_id, image, label), ids str.

    Raises:
      ValueError: fewer than one volume, a negative seed, or a size that does not fit.
    """
    if count < 1:
        raise ValueError(f"Cannot generate {count} volumes; ask for at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; give a non-negative integer.")
    shape = volume_shape(size)
    looks = [_scroll_look((seed, 0, scroll)) | parameters for scroll in range(SCROLLS)]

    def volume(index):
        image, label = scroll_volume((seed, 1, index), shape, **looks[index % SCROLLS])
        return str(100_000 + index), f"scroll{index % SCROLLS}", image, label

    return map(volume, range(count))


def write_folder(
    out, count, size=160, seed=0, *, test=0, overwrite=False, report=lambda line: None
):
    """Write volumes in the competition's layout; the folder appears whole or not at all.

    train_images/<id>.tif, train_labels/<id>.tif, train.csv (id, scroll_id) and, with `test`,
    test_images/<id>.tif: uint8, one page per slice, LZW. And RECORD.

    Args:
      out: folder, absent or empty.
      count: number of training volumes.
      size: as in `scroll_volume`.
      seed: non-negative int.
      test: number of further volumes, images only.
      overwrite: replace a folder that this function wrote and that has not changed since.
      report: called with one line of text per file.

    Returns:
      Fractions of background, surface and unlabelled voxels in the training labels, [3].

    Raises:
      ValueError: nothing to write, or a size or seed that does not fit.
      FileExistsError: `out` is a file, holds files, or holds files that changed since they were
        generated.
      PermissionError: the folder around `out` cannot be written.
    """
    out = refuse_address(out).resolve()
    if count < 1 or test < 0:
        raise ValueError(f"{count} training and {test} test volumes; ask for at least 1 and 0.")
    pieces = volumes(count + test, size, seed)
    _check_replaceable(out, overwrite)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    replaced = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise PermissionError(
            f"{out.parent} cannot be written ({error.strerror}); choose another place for OUT."
        ) from error
    try:
        counts = _write_pieces(partial, pieces, count, report)
        write_json(partial / RECORD, marked({"files": _sizes(partial)}, "data.synthetic"))
        if out.exists():
            out.replace(replaced)
        partial.replace(out)
    finally:
        if replaced.exists() and not out.exists():  # interrupted between the two renames
            replaced.replace(out)
        for folder in (partial, replaced):
            shutil.rmtree(folder, ignore_errors=True)
    return counts / counts.sum()


def _write_pieces(folder, pieces, training, report):
    """Write `volumes` into a folder, the first `training` with their labels; counts of labels."""

    def write(name, volume, note):
        path = folder / name
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(
                path, volume, compression="lzw", photometric="minisblack", metadata=None
            )
        report(f"{name}  {'×'.join(map(str, volume.shape))}  {note}")

    counts = np.zeros(3, np.int64)
    rows = ["id,scroll_id\n"]
    for index, (identifier, scroll, image, label) in enumerate(pieces):
        if index >= training:
            write(f"test_images/{identifier}.tif", image, scroll)
            continue
        mix = np.bincount(label.ravel(), minlength=3)
        counts += mix
        rows.append(f"{identifier},{scroll}\n")
        write(f"train_images/{identifier}.tif", image, scroll)
        write(f"train_labels/{identifier}.tif", label, describe_mix(mix))
    with writing(folder / "train.csv"):
        (folder / "train.csv").write_text("".join(rows))
    report(f"train.csv  {training} volumes")
    return counts


def describe_mix(counts):
    """'37.2 % background, 5.1 % surface, 57.7 % unlabelled' from counts or fractions, [3]."""
    percent = 100 * np.asarray(counts) / np.sum(counts)
    names = ("background", "surface", "unlabelled")
    return ", ".join(f"{value:.1f} % {name}" for value, name in zip(percent, names, strict=True))


def _check_replaceable(out, overwrite):
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder.")
    if not out.exists():
        return
    if any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} is not empty; name another folder or ask to overwrite it.")
    content = _sizes(out)
    own = RECORD in content and is_own(out / RECORD, "data.synthetic")
    generated = read_json(out / RECORD).get("files", {}) if own else {}
    foreign = [name for name, size in content.items() if generated.get(name) != size]
    if own:
        foreign.remove(RECORD)
    if foreign:
        raise FileExistsError(
            f"{out} holds {foreign[0]}, which is not part of the generated data set or has "
            "changed since; name another folder."
        )


def _sizes(folder):
    """{path in the folder: bytes} of all its files and links."""
    files = sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {str(path.relative_to(folder)): path.lstat().st_size for path in files}


def _scroll_look(seed):
    """The arguments of `scroll_volume` that the volumes of one scroll share."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    ranges = {
        "spacing": (13, 17),
        "squash": (0.65, 0.9),
        "compression": (0.35, 0.5),
        "papyrus": (0.39, 0.45),
        "filling": (0.19, 0.25),
        "blur": (0.8, 1.0),
        "grain": (0.025, 0.035),
        "white_noise": (0.025, 0.035),
        "rings": (0.01, 0.03),
    }
    look = {name: generator.uniform(*bounds) for name, bounds in ranges.items()}
    return look | {"handedness": int(generator.choice((-1, 1)))}


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser("python -m jax_seg.data.synthetic", description=__doc__)
    parser.add_argument("out", metavar="OUT", help="folder to create; it must be absent or empty")
    parser.add_argument(
        "--volumes", type=int, default=8, help="number of training volumes (default: 8)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[160],
        help="voxels per side: one number, or D H W (default: 160)",
    )
    parser.add_argument(
        "--test", type=int, default=0, help="number of further volumes without labels (default: 0)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed; a seed always gives the same data (default: 0)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that this command wrote"
    )
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _write(arguments))


def _write(arguments):
    mix = write_folder(
        arguments.out,
        arguments.volumes,
        arguments.size,
        arguments.seed,
        test=arguments.test,
        overwrite=arguments.overwrite,
        report=print,
    )
    print("labels:", describe_mix(mix))
    return 0


if __name__ == "__main__":
    sys.exit(main())
