"""Segment a folder of volumes or of images with a trained model, or with several.

python -m jax_seg.predict --workdir runs/v6 --input FOLDER --output FOLDER
python -m jax_seg.predict --workdir runs/fold_0 runs/fold_1@swa --flips height width …
python -m jax_seg.predict --workdir runs/v6 --input scroll.zarr --output prediction.zarr

A volume yields a mask, an image a grey map of the probability (see `tasks/kinds.py`). A JSON file
beside each records how it was made. Finished predictions are skipped. An --output that ends in
.zarr is written block by block: see `infer/blocks/`.
"""

import argparse
import sys
import zipfile
from functools import partial
from pathlib import Path

import jax
import numpy as np

from jax_seg import tasks
from jax_seg.infer import ensemble, postprocess, sidecar
from jax_seg.infer.files import bytes_needed, map_folders, predict_files
from jax_seg.infer.logits import foreground
from jax_seg.infer.postprocess import by_class
from jax_seg.ops.classes import painted
from jax_seg.runs import blockwise, checkpoints, members, seen, together
from jax_seg.runs.data_folders import data_folders
from jax_seg.system import engine, memory, outputs, startup
from jax_seg.system.commands import exit_status, report_errors
from jax_seg.system.files import read_json, replacing
from jax_seg.system.program import program
from jax_seg.tasks import judged


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("predict"),
        description="Segment volumes (1 is foreground, or label values of several classes; TIFF, "
        "NIfTI, NRRD, MRC, HDF5 or N5, as the input) or images (as PNG, 255 means probability 1) "
        "with trained models.",
    )
    _add_networks(parser)
    parser.add_argument(
        "--input", required=True, nargs="+", help="volumes or images: folders or files"
    )
    text = "folder for the predictions; or NAME.zarr, for one volume of any size"
    parser.add_argument("--output", required=True, type=Path, help=text)
    parser.add_argument(
        "--flips",
        nargs="+",
        default=(),
        choices=ensemble.AXES,
        help="also average over flips of these axes",
    )
    parser.add_argument(
        "--rotations",
        action="store_true",
        help="also average over quarter turns in the plane of height and width",
    )
    parser.add_argument(
        "--threshold", type=float, help="probability threshold (default: the run's)"
    )
    parser.add_argument(
        "--overlap", type=float, help="window overlap in [0, 1) (default: the run's)"
    )
    parser.add_argument(
        "--windows", type=engine.count, help="windows per call of the network (default: the run's)"
    )
    parser.add_argument(
        "--postprocess",
        nargs="+",
        metavar="STEP",
        help="post-processing steps, such as remove_small:voxels=100, or 'none' (default: those "
        "tuned for the run)",
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="also write the probabilities as float16, of several classes in a folder for each",
    )
    parser.add_argument("--submission", type=Path, help="also write a zip file of all masks")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier predictions")
    blockwise.add_arguments(parser)
    arguments = parser.parse_args(argv)
    startup.prepare()
    kept = f"finished predictions stay in {arguments.output}; run the same command to resume"
    return exit_status(lambda: _predict(arguments), kept)


def _add_networks(parser):
    """Add the flags that name the networks, and how their outputs are averaged."""
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--workdir",
        nargs="+",
        help="folder of a training run; WORKDIR@STEP, @latest, @swa or @ema selects weights; "
        "the probabilities of several are averaged",
    )
    chosen.add_argument(
        "--ensemble", type=Path, help="ensemble file written by jax_seg.fit_ensemble"
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        help="checkpoint to use: best, latest or a step (default: best; latest for an average)",
    )
    parser.add_argument(
        "--weights",
        default="",
        choices=members.WEIGHTS,
        help="weights to use: raw or an average (default: raw)",
    )
    parser.add_argument(
        "--member_weights",
        type=float,
        nargs="+",
        help="weight of each member in the average (default: equal)",
    )


def _predict(arguments):
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise ValueError(f"--threshold is {arguments.threshold}; it must lie between 0 and 1.")
    if arguments.overlap is not None and not 0 <= arguments.overlap < 1:
        raise ValueError(f"--overlap is {arguments.overlap}; it must lie in [0, 1).")
    in_blocks = blockwise.asked(arguments)
    segment, networks, settings = _networks(arguments)
    kind, decide, facts = _decision(arguments, networks)
    kind = kind._replace(needs=partial(kind.needs, logits=together.logits_held(networks, settings)))
    channels = max(network.fields.get("model.in_channels", 1) for network in networks)
    found = in_blocks and blockwise.find(arguments.input)
    nnunet = networks[0].fields.get("validate.convention") == members.NNUNET
    found = found or kind.find(arguments.input, channels, nnunet)
    output = arguments.output
    settings |= facts | {"predicted_with": checkpoints.code_version()}
    if in_blocks:
        return _predict_in_blocks(arguments, networks, kind, settings, found)
    maps_of = together.classes_of(networks) if arguments.probabilities else None
    maps = map_folders(maps_of) if maps_of else ()
    _protect(arguments, networks, kind, found, maps)
    to_do, errors = found, {}
    if not arguments.overwrite:
        to_do, errors = sidecar.unfinished(
            found,
            output,
            kind.suffix,
            settings,
            maps,
            lambda volume: together.resampled(networks, volume),
        )
    if done := len(found) - len(to_do) - len(errors):
        print(f"{done} of {len(found)} {kind.name} are already finished; skipping them.")
    to_do, large = _by_size(arguments, kind, to_do)
    on = seen.by_any(networks, to_do)
    if to_do:
        outputs.require_folder(output)
    results = predict_files(
        kind,
        together.at_its_spacing(segment, networks),
        decide,
        _inspection(kind, networks, on),
        to_do,
        output,
        settings=settings,
        maps_of=maps_of,
    )
    passed = done + len(errors) + len(large)
    suffix = {v.id: kind.suffix(v.image) for v in found}
    for name, result in results:
        passed += 1
        if isinstance(result, Exception):
            errors[name] = result
        else:
            trained_on = on[name].volumes == judged.TRAINING
            mark = on[name].suffix(kind.name.removesuffix("s")) if trained_on else ""
            _report(f"[{passed}/{len(found)}] {output / name}{suffix[name]}", result, mark)
    if passed < len(found):
        print(f"{len(found) - passed} {kind.name} were not predicted.", file=sys.stderr)
    sentences = [f"{name}: {error}" for name, error in errors.items()]
    status = report_errors(sentences, len(found), kind.name)
    if arguments.submission and errors:
        print(f"{arguments.submission} is not written: it would be incomplete.", file=sys.stderr)
    elif arguments.submission:
        _write_submission(arguments.submission, output, [v.id + suffix[v.id] for v in found])
        print(f"Submission: {arguments.submission} ({len(found)} volumes)")
    for volume in large:
        image = output / f"{volume.id}{blockwise.SUFFIX}"
        try:
            status = max(status, _one_in_blocks(arguments, networks, settings, volume, image))
        except (ValueError, OSError) as error:  # of this one; the others may fit
            print(f"Error: {volume.id}: {error}", file=sys.stderr)
            status = 1
    return status


def _by_size(arguments, kind, volumes):
    """(those that fit in memory, those that are predicted block by block); the latter are named.

    Damaged files, and what goes with masks in one file alone, are left to whoever reads them.
    """
    fitting, large = [], []
    for volume in volumes:
        needed, left = bytes_needed(kind, volume), memory.available()
        begun = blockwise.begun(arguments.output / f"{volume.id}{blockwise.SUFFIX}")
        if arguments.probabilities or arguments.submission or (needed <= left and not begun):
            fitting.append(volume)
            continue
        large.append(volume)
        if begun:  # by an earlier start of this command
            continue
        print(
            f"{volume.image} needs {needed / 2**30:,.1f} GiB of memory and {left / 2**30:,.1f} are "
            f"available: it is predicted block by block, as {volume.id}{blockwise.SUFFIX}."
        )
    return fitting, large


def _predict_in_blocks(arguments, networks, kind, settings, found):
    if kind.as_map:
        raise ValueError(
            "--output ends in .zarr, but these networks segment images: name a folder."
        )
    if len(found) > 1:
        raise ValueError(
            f"--output {arguments.output} holds one volume, but --input names {len(found)}: name "
            "one, or a folder as --output."
        )
    return _one_in_blocks(arguments, networks, settings, found[0], arguments.output)


def _one_in_blocks(arguments, networks, settings, volume, output):
    if any(together.resampling(network, volume) for network in networks):
        raise ValueError(
            f"{volume.image} has another spacing than the networks were trained on, and blocks "
            "are not resampled: resample the volume, or predict it in memory (an --output that is "
            "a folder)."
        )
    return blockwise.predict(arguments, networks, settings, volume, output)


def _protect(arguments, networks, kind, found, maps):
    """Refuse an --output or --submission among the inputs, or one that replaces other files."""
    inputs = [Path(path) for path in arguments.input if Path(path).is_dir()]
    for network in networks:
        inputs += data_folders(network.fields, network.facts["workdir"])
    beside = sorted({Path(image.image).parent for image in found})
    outputs.require_apart(arguments.output, inside=inputs, same=beside)
    names = [
        name
        for image in found
        for name in sidecar.files_of(image.id, kind.suffix(image.image), maps)
    ]
    written = [arguments.output / name for name in names]
    written += [sidecar.path_of(arguments.output, image.id) for image in found]
    outputs.require_own(written, "predict")
    outputs.require_file(arguments.submission, "predict", inside=inputs, flag="--submission")


def _inspection(kind, networks, on):
    """(volume, array) -> facts of an input for its sidecar.

    Args:
      kind: `kinds.Kind`.
      networks: list of `members.Network`.
      on: {id: `JudgedOn`}: what an input is to the networks.
    """
    facts = [network.facts for network in networks]

    def facts_of(volume, array):
        spacings = [together.resampling(network, volume) for network in networks]
        found = kind.inspect(volume.image, array, facts, spacings)
        warnings = [*found.get("warnings", ()), *together.unstated(networks, volume)]
        return found | {"warnings": warnings, "judged_on": on[volume.id].as_json()}

    return facts_of


def _report(name, facts, mark):
    empty = ""
    if facts.get("empty_windows"):
        empty = f"{facts['empty_windows']} of {facts['windows']} windows without input, "
    share = f"{100 * facts['foreground_share']:.2f} % foreground"
    print(f"{name}: {share}, {empty}{facts['seconds']} s{mark}", flush=True)
    for warning in facts.get("warnings", ()):
        print(f"Warning: {warning}", file=sys.stderr)


def _write_submission(path, output, names):
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        archive.comment = outputs.written_by("predict").encode()
        for name in names:
            inside = sorted((output / name).rglob("*"))  # of an N5
            for path in inside or [output / name]:
                archive.write(path, path.relative_to(output))


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
        return together.load(chosen, arguments.member_weights, **options)
    if arguments.checkpoint or arguments.weights or arguments.member_weights:
        raise ValueError(
            "--ensemble names the checkpoints and their weights: drop --checkpoint, --weights and "
            "--member_weights, or name the members with --workdir."
        )
    texts, weights = together.read_ensemble(arguments.ensemble)
    print(seen.reservation(arguments.ensemble, "weights"), end="")
    segment, networks, facts = together.load(texts, weights, **options)
    together.require_fitted(arguments.ensemble, networks)
    return segment, networks, facts


def _decision(arguments, networks):
    """(Kind, (logits, image) -> prediction, facts): what the command line and the networks mean."""
    kind, *others = {tasks.kind_of_run(network.fields).PREDICTION for network in networks}
    if others:
        raise ValueError(
            "Some members segment images, others volumes: name members of one kind only."
        )
    if kind.as_map:
        for flag in ("threshold", "postprocess", "probabilities", "submission"):
            if getattr(arguments, flag):
                raise ValueError(
                    f"--{flag} is for volumes: images become grey maps of the probability."
                )
        return kind, lambda logits, _: kind.as_map(logits), {}
    if arguments.postprocess:
        steps = None if arguments.postprocess == ["none"] else arguments.postprocess
    else:
        own = [_own_steps(network) for network in networks]
        steps = together.agreed("post-processing", own, "choose with --postprocess")
    classes = together.classes_of(networks)
    if len(classes.names) > 1:
        return kind, *_several(arguments, networks, steps, classes)
    if steps is None:
        threshold = _threshold(arguments, networks)
        return (
            kind,
            lambda logits, _: np.asarray(foreground(logits, threshold), np.uint8),
            {"threshold": threshold},
        )

    if not steps or postprocess.parse(steps[0])[0] not in postprocess.FIRST:
        steps = postprocess.after_threshold(steps, _threshold(arguments, networks))
    elif arguments.threshold is not None:
        print(f"--threshold {arguments.threshold:g} replaces the step {steps[0]}.")
        steps = postprocess.after_threshold(steps[1:], arguments.threshold)
    (first, parameters), *_ = postprocess.parse_all(steps)

    def decide(logits, image):
        return postprocess.apply(np.asarray(jax.nn.sigmoid(logits)), image, steps)

    facts = {"postprocess": list(steps)}
    if first == "threshold":
        facts |= {"threshold": (postprocess.defaults(first) | parameters)["value"]}
    return kind, decide, facts


def _several(arguments, networks, steps, classes):
    """((logits, image) -> label values, facts) of networks that tell several classes apart."""
    if arguments.submission:
        raise ValueError(
            f"--submission is for one class, and these networks have {len(classes.names)}."
        )
    if arguments.threshold is not None and classes.exclusive:
        raise ValueError(
            "--threshold has no meaning here: of classes that exclude each other the most probable "
            "is taken. Leave it out."
        )
    threshold = 0.5 if classes.exclusive else _threshold(arguments, networks)
    steps = postprocess.after_threshold(steps or (), threshold)

    def decide(logits, image):
        return painted(by_class.apply(logits, image, steps, classes), classes.values)

    return decide, {"postprocess": list(steps), "classes": classes.as_json()}


def _threshold(arguments, networks):
    if arguments.threshold is not None:
        return arguments.threshold
    thresholds = [network.fields["validate.threshold"] for network in networks]
    return together.agreed("threshold", thresholds, "choose with --threshold")


def _own_steps(network):
    """The steps tuned for a run, else those of its configuration, else None."""
    tuned = postprocess.read_steps(network.facts["workdir"])
    if tuned is not None:
        path = Path(network.facts["workdir"]) / "postprocess.json"
        print(seen.reservation(path, "steps"), end="")
        step, used = read_json(path).get("checkpoint_step"), network.facts["step"]
        if step not in (None, used):
            print(f"Note: the steps of {path} were tuned for checkpoint {step}, not for {used}.")
    return (network.fields.get("postprocess.steps") or None) if tuned is None else tuned


if __name__ == "__main__":
    sys.exit(main())
