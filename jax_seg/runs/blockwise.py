"""Prediction of one volume block by block: the flags of the command, and the job they describe."""

import functools
import itertools
from pathlib import Path

import jax
import numpy as np

from jax_seg.data import intensities
from jax_seg.data.folder import Volume
from jax_seg.data.readers import open_volume, remote
from jax_seg.infer import ensemble
from jax_seg.infer.blocks import passes, records, store
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
from jax_seg.system.files import stamp
from jax_seg.tasks import judged

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
        help="write probabilities of this type instead of a mask",
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
    _require_blocks(networks)
    reader = open_volume(volume.image)
    patches = [network.facts["patch"] for network in networks]
    block, chunk = arguments.block or default_block(patches), arguments.chunk or CHUNK
    if min(block, chunk) < 1:
        raise ValueError("--block and --chunk are numbers of voxels: give numbers above 0.")
    require_divided((block,) * 3, (chunk,) * 3)
    region = parse_region(arguments.region, reader.shape) if arguments.region else None
    part = _parse_part(arguments.part)
    within = None
    if arguments.mask:
        within = open_volume(arguments.mask)
        coarseness(within, reader.shape)
    _protect(output, arguments, volume)
    kind = arguments.dtype or MASK
    facts = dict(settings)
    if kind != MASK:
        facts.pop("threshold", None)
        facts.pop("postprocess", None)
    steps = tuple(facts.get("postprocess", ()))
    passes.require_known(steps, whole=region is None)
    facts |= {
        "image": str(volume.image),
        "image_stamp": _stamp(reader),
        "shape": list(reader.shape),
        "mask": str(arguments.mask) if arguments.mask else None,
        "mask_stamp": stamp(arguments.mask) if arguments.mask else None,
        "kind": kind,
        "block": block,
        "chunk": chunk,
        "version": arguments.ome or store.VERSIONS[0],
        "windows_per_call": arguments.windows or networks[0].fields["validate.windows"],
        "threads": threads() if jax.default_backend() == "cpu" else 0,
        "judged_on": _judged_on(networks, volume).as_json(),
    }
    for sentence in _warnings(reader, networks):
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
        version=facts["version"],
        threads=facts["threads"],
        settings=facts,
        digest=identity(facts),
    )
    return run(
        job,
        engine.opener(arguments.workers, arguments.scheduler),
        region=region,
        part=part,
        overwrite=arguments.overwrite,
        grids=_grids(arguments, networks),
    )


def _require_blocks(networks):
    """Refuse networks whose result in one place depends on the whole volume."""
    for network in networks:
        if (channels := network.fields.get("model.in_channels", 1)) > 1:
            raise ValueError(
                f"{network.facts['workdir']} takes images of {channels} channels, which are not "
                "predicted block by block: name a folder as --output instead of a .zarr."
            )
        imported = bool(network.fields.get("validate.convention"))
        if imported or "low" not in network.facts["preprocessing"]:
            why = "predicts as nnU-Net does" if imported else "normalises each volume by itself"
            raise ValueError(
                f"{network.facts['workdir']} {why}, which needs the whole volume at once: name a "
                "folder as --output instead of a .zarr."
            )


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
    begun = (records_folder(output) / "settings.json").is_file()
    if output.exists() and not begun and not store.is_own(output):
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


def _grids(arguments, networks):
    """[(patch, overlap, passes)] of the networks."""
    turns = len(ensemble.orientations_of(arguments.flips, arguments.rotations))
    return [(network.facts["patch"], network.facts["overlap"], turns) for network in networks]


def _warnings(reader, networks):
    """Sentences on intensities that differ from those of the runs, from 27 places of the volume."""
    size = [min(16, length) for length in reader.shape]
    places = [
        [(length - n) * k // 4 for k in (1, 2, 3)]
        for length, n in zip(reader.shape, size, strict=True)
    ]
    boxes = [reader.read(start, size).ravel() for start in itertools.product(*places)]
    values = intensities.sample(np.concatenate(boxes))
    if not values.any():
        return []
    ranges = {(n.facts["preprocessing"]["low"], n.facts["preprocessing"]["high"]) for n in networks}
    found = {intensities.compare(reader.path, values, *bounds) for bounds in ranges}
    return sorted(found - {""})
