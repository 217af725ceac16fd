"""Prediction of one volume block by block: the flags of the command, and the job they describe."""

import functools
import itertools
import json
import sys
from pathlib import Path

import jax
import numpy as np

from jax_seg.data import preprocess
from jax_seg.data.folder import Volume
from jax_seg.data.readers import open_image, open_volume, remote, sections
from jax_seg.data.readers.contract import channels_of
from jax_seg.infer import as_nnunet, ensemble, inspection
from jax_seg.infer.blocks import passes, records, states, store
from jax_seg.infer.blocks.cuts import Cuts, parse_region
from jax_seg.infer.blocks.job import (
    MASK,
    PROBABILITIES,
    Job,
    coarseness,
    default_block,
    records_folder,
    require_divided,
    threads,
)
from jax_seg.infer.blocks.run import identity, run
from jax_seg.runs import members, seen, together
from jax_seg.system import engine, outputs
from jax_seg.system.files import read_json, stamp
from jax_seg.tasks import judged, kinds

SUFFIX = ".zarr"
CHUNK = 64
FLAGS = ("dtype", "region", "mask", "block", "chunk", "ome", "workers", "scheduler", "part")


def add_arguments(parser):
    """Add the flags of prediction block by block to a parser."""
    group = parser.add_argument_group(
        "block by block",
        "for an --output that ends in .zarr: one volume of any size, as an OME-Zarr image",
    )
    group.add_argument(
        "--dtype",
        choices=PROBABILITIES,
        help="write probabilities of this type instead of a mask; evaluate and tune read float16",
    )
    group.add_argument(
        "--region",
        metavar="z0:z1,y0:y1,x0:x1",
        help="compute only the blocks that hold these voxels",
    )
    group.add_argument(
        "--mask",
        type=Path,
        help="volume that is zero where nothing is to be predicted, at this resolution or coarser",
    )
    group.add_argument(
        "--block", type=int, help="voxels of a block along each axis (default: four windows)"
    )
    group.add_argument(
        "--chunk", type=int, help=f"voxels of a chunk along each axis (default: {CHUNK})"
    )
    group.add_argument("--ome", choices=store.VERSIONS, help="version of OME-Zarr (default: 0.5)")
    group.add_argument(
        "--workers", type=engine.count, help="start this many processes, one device each (Dask)"
    )
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="use the workers of this running Dask scheduler"
    )
    group.add_argument(
        "--part", metavar="K/N", help="compute only the K-th of N shares, as in a job array"
    )


def asked(arguments):
    """Whether the output is to be written block by block.

    Raises:
      ValueError: flags of it without such an output, or flags that do not go with it.
    """
    if arguments.output.suffix != SUFFIX:
        for flag in FLAGS:
            if getattr(arguments, flag) is not None:
                raise ValueError(
                    f"--{flag} is for volumes that are written block by block: give an --output "
                    f"that ends in {SUFFIX}."
                )
        return False
    for flag in ("probabilities", "submission"):
        if getattr(arguments, flag):
            raise ValueError(
                f"--{flag} is for TIFF files: with an --output that ends in {SUFFIX}, use --dtype "
                "float16 for probabilities."
            )
    if arguments.dtype and (arguments.postprocess or arguments.threshold is not None):
        raise ValueError(
            "--dtype writes probabilities, which have no threshold and no post-processing: leave "
            "it out to write a mask."
        )
    engine.opener(arguments.workers, arguments.scheduler)
    if arguments.part and (arguments.scheduler or arguments.workers):
        raise ValueError("--part needs no engine: leave out --workers and --scheduler.")
    _parse_part(arguments.part)
    if arguments.part and arguments.overwrite:
        raise ValueError(
            "--part would overwrite what other parts have written: remove the output and the "
            "folder of its records to begin anew, then start the parts."
        )
    return True


def predict(arguments, networks, settings, volume, output):
    """Predict one volume into an OME-Zarr image.

    Args:
      arguments: of the command line.
      networks: list of `members.Network`.
      settings: dict of JSON types: the networks, the threshold or the steps.
      volume: its 'id' and path 'image'.
      output: folder of the image.

    Returns:
      Exit status.

    Raises:
      ValueError, OSError: bad flags or input, or an output that cannot be written.
    """
    reader, classes = open_image(volume.image), together.classes_of(networks)
    for network in networks:
        wanted, workdir = network.fields.get("model.in_channels", 1), network.facts["workdir"]
        members.require_channels(channels_of(reader), wanted, workdir, name=str(reader.path))
    states.require_few(classes)
    _warn_of_decoding(reader)
    block, chunk = _sizes(arguments, networks, classes)
    region = parse_region(arguments.region, reader.shape) if arguments.region else None
    within = _within(arguments.mask, reader.shape)
    _protect(output, arguments, volume)
    kind, facts = _kind(arguments, classes), dict(settings)
    if kind != MASK:
        facts.pop("threshold", None)
        facts.pop("postprocess", None)
    steps = tuple(facts.get("postprocess", ()))
    passes.require_known(steps, whole=region is None)
    now = _stamp(reader)
    measured, numbers = _measured(reader, networks, records_folder(output), now)
    facts |= {
        "image": str(volume.image),
        "image_stamp": now,
        "measured": numbers,
        "shape": list(reader.shape),
        "mask": str(arguments.mask) if arguments.mask else None,
        "mask_stamp": _stamp_of_mask(arguments.mask, within),
        "kind": kind,
        "block": block,
        "chunk": chunk,
        "version": arguments.ome or store.VERSIONS[0],
        "windows_per_call": arguments.windows or networks[0].fields["validate.windows"],
        "threads": threads() if jax.default_backend() == "cpu" else 0,
        "judged_on": _judged_on(networks, volume).as_json(),
    }
    for sentence in [*_warnings(reader, networks), *together.unstated(networks, volume)]:
        print(f"Warning: {sentence}")
    job = Job(
        reader=reader,
        within=within,
        load=_loader(arguments, networks, settings),
        store=str(Path(output).absolute()),
        records=str(records_folder(output)),
        cuts=Cuts(tuple(reader.shape), (block,) * 3),
        chunk=(chunk,) * 3,
        kind=kind,
        threshold=facts.get("threshold"),
        steps=steps,
        classes=classes,
        measured=measured,
        version=facts["version"],
        threads=facts["threads"],
        settings=facts,
        digest=identity(facts),
    )
    return run(
        job,
        engine.opener(arguments.workers, arguments.scheduler),
        region=region,
        part=_parse_part(arguments.part),
        overwrite=arguments.overwrite,
        grids=_grids(arguments, networks, measured, reader.shape),
    )


def _sizes(arguments, networks, classes):
    """(voxels of a block, of a chunk) along each axis."""
    patches = [network.facts["patch"] for network in networks]
    block, chunk = arguments.block, CHUNK if arguments.chunk is None else arguments.chunk
    block = default_block(patches, len(classes.names)) if block is None else block
    if min(block, chunk) < 1:
        raise ValueError("--block and --chunk are numbers of voxels: give numbers above 0.")
    require_divided((block,) * 3, (chunk,) * 3)
    return block, chunk


def _warn_of_decoding(reader):
    if not (reader.random_access or getattr(reader, "by_slices", False)):
        print(
            f"Warning: {reader.path} is decoded as a whole for every block: a Zarr, or an "
            "uncompressed TIFF or NIfTI, of the same voxels is much faster.",
            file=sys.stderr,
        )


def _within(path, shape):
    """The reader of --mask, which fits a volume of this shape; None without one."""
    if not path:
        return None
    reader = open_volume(path)
    coarseness(reader, shape)
    return reader


def _stamp_of_mask(path, reader):
    if not path:
        return None
    return _stamp(reader) if isinstance(reader.path, remote.Address) else stamp(path)


def _kind(arguments, classes):
    """What is written: a mask, or probabilities of one class."""
    if arguments.dtype and len(classes.names) > 1:
        raise ValueError(
            f"--dtype is for one class, and these networks tell {', '.join(classes.names)} apart: "
            "leave it out to write label values."
        )
    return arguments.dtype or MASK


def _measured(reader, networks, folder, now):
    """What `preprocess.measure` finds for networks that need it, see `_rule`.

    It reads the whole volume, several times, so a job that was begun is asked first.

    Args:
      reader: of the volume.
      networks: list of `members.Network`.
      folder: of the job's records.
      now: `_stamp` of the reader.

    Returns:
      ({`PerVolume`: (Preprocessing, slices)}, the same as JSON types); ({}, None) without such
      networks.
    """
    rules = dict.fromkeys(_rule(network) for network in networks)
    rules = [rule for rule in rules if isinstance(rule, preprocess.PerVolume)]
    if not rules:
        return {}, None
    begun, content, path = {}, {}, folder / records.SETTINGS
    if path.is_file():
        made = read_json(path)
        begun = made.get("measured") or {} if made.get("image_stamp") == now else {}
    for rule in rules:
        name = " ".join(map(str, rule))
        if name not in begun:
            print(f"Measuring the intensities of all of {reader.path}.", flush=True)
            numbers, box = preprocess.measure(sections.of(reader), rule)
            limits = [one.indices(n)[:2] for one, n in zip(box, reader.shape, strict=True)]
            begun[name] = {"numbers": numbers._asdict(), "box": [list(one) for one in limits]}
        content[name] = json.loads(json.dumps(begun[name]))  # as a later run reads it
    found = {
        rule: (preprocess.stored(one["numbers"]), tuple(slice(a, b) for a, b in one["box"]))
        for rule, one in zip(rules, content.values(), strict=True)
    }
    return found, content


def find(inputs):
    """The one volume that an address names, as `folder.find_images` gives those of a disk; else [].

    Raises:
      ValueError: an address beside other inputs.
    """
    addresses = [text for text in inputs if remote.is_address(text)]
    if addresses and len(inputs) > 1:
        raise ValueError(f"--input {addresses[0]} is an address: give it alone.")
    found = [remote.Address(text) for text in addresses]
    return [Volume(one.name.removesuffix(SUFFIX), one, None, one.name) for one in found]


def _stamp(reader):
    """What tells whether an image has changed; on a server, by the metadata of its array alone."""
    if isinstance(reader.path, remote.Address):
        return records.digest_of([str(reader.path), reader.metadata])
    return stamp(reader.path)


def _judged_on(networks, volume):
    if isinstance(volume.image, remote.Address):
        return judged.JudgedOn()
    return seen.by_any(networks, [volume])[volume.id]


def _parse_part(text):
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise ValueError(f"--part is '{text}': write K/N with K from 1 to N, as 3/16.")
    return int(first), int(second)


def begun(output):
    """Whether a job has begun to write an image."""
    return (records_folder(output) / records.SETTINGS).is_file()


def _protect(output, arguments, volume):
    """Refuse an output among the inputs, a foreign one, and one that cannot be written."""
    output = Path(output)
    on_disk = [] if isinstance(volume.image, remote.Address) else [Path(volume.image)]
    inputs = on_disk + ([arguments.mask] if arguments.mask else [])
    outputs.require_apart(output, inside=[path for path in inputs if path.is_dir()])
    outputs.require_apart(output, same=inputs)
    for path in inputs:
        if output.resolve() in path.resolve().parents:
            raise ValueError(f"--output {output} holds the input {path}: choose another place.")
    outputs.require_folder(output.parent)
    if output.exists() and not begun(output) and not store.is_own(output):
        raise FileExistsError(
            f"{output} was not written by jax_seg.predict, which replaces only its own files: move "
            "it away, or choose another --output."
        )
    outputs.require_own([output.with_suffix(".json")], "predict")


def _loader(arguments, networks, settings):
    """A function that loads the same networks in any process."""
    chosen = [
        members.Member(n.facts["workdir"], str(n.facts["step"]), n.facts["weights"])
        for n in networks
    ]
    several = settings.get("members")
    return functools.partial(
        load,
        chosen,
        [one["weight"] for one in several] if several else None,
        digests=[network.facts["digest"] for network in networks],
        overlap=arguments.overlap,
        windows=arguments.windows,
        flips=tuple(arguments.flips),
        rotations=arguments.rotations,
    )


def load(chosen, weights, *, digests, **options):
    """The `Part` -> logits of networks, in a worker.

    Args:
      chosen: list of `members.Member`.
      weights: of the mean of their probabilities.
      digests: of the weights that they must have.
      **options: of `together.load`.

    Raises:
      OSError: a network is not where it was, or has other weights.
    """
    try:
        segment, networks, _ = together.load(chosen, weights, **options)
    except (ValueError, OSError) as error:
        raise OSError(f"The networks cannot be loaded: {error}") from error
    for network, digest in zip(networks, digests, strict=True):
        if network.facts["digest"] != digest:
            raise OSError(
                f"{network.facts['workdir']} holds other weights here than where the job began: "
                "give every worker the same files."
            )
    return segment


def _rule(network):
    """The `PerVolume` that measures a volume for a network, or its `Preprocessing` of any."""
    rule = preprocess.stored(network.facts["preprocessing"])
    as_there = network.fields.get("validate.convention") == members.NNUNET
    return as_nnunet.measuring(rule) if as_there else rule


def _grids(arguments, networks, measured, shape):
    """[(patch, overlap, passes, spans)] of the networks, as `run` takes them."""
    turns, found = len(ensemble.orientations_of(arguments.flips, arguments.rotations)), []
    for network in networks:
        rule = _rule(network)
        box = measured[rule][1] if rule in measured else (slice(None),) * 3
        spans = [one.indices(n)[:2] for one, n in zip(box, shape, strict=True)]
        found.append((network.facts["patch"], network.facts["overlap"], turns, spans))
    return found


def _warnings(reader, networks):
    """Sentences on intensities that differ from those of the runs, from 27 places of the volume."""
    size = [min(16, length) for length in reader.shape]
    places = [
        [(length - n) * k // 4 for k in (1, 2, 3)]
        for length, n in zip(reader.shape, size, strict=True)
    ]
    boxes = [reader.read(start, size) for start in itertools.product(*places)]
    voxels = np.concatenate([one.reshape(-1, *one.shape[3:]) for one in boxes])
    if not voxels.any():
        return []
    ranges = kinds.ranges_of([network.facts for network in networks], channels_of(reader))
    return inspection.unlike(reader.path, voxels, ranges)
