"""Score a folder of predictions against a folder of labels.

python -m jax_seg.evaluate --predictions FOLDER --labels FOLDER --output scores.json
python -m jax_seg.evaluate --camouflage --predictions MAPS --labels COD10K-v3/Test/GT_Object

If the sidecar that `jax_seg.predict` wrote records that the network was trained on a volume, the
table and the JSON say so.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np

from jax_seg.data.folder import find_images
from jax_seg.data.labels import label_table, label_value
from jax_seg.metrics.balance import CONSTANTS, SHOWN, class_balance, require_target
from jax_seg.metrics.foreground import share_statistics
from jax_seg.metrics.segmentation import scores, together
from jax_seg.system import outputs
from jax_seg.system.commands import exit_status, report_errors
from jax_seg.system.files import write_json
from jax_seg.system.program import program
from jax_seg.tasks import judged, score_images
from jax_seg.tasks.folders import score_folders
from jax_seg.tasks.score_volumes import COMPETITION, OVERLAP, THIN, evaluate_volume


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("evaluate"),
        description="Score predictions against labels. Unlabelled voxels are ignored.",
    )
    parser.add_argument("--predictions", required=True, type=Path, help="folder of predictions")
    parser.add_argument(
        "--labels", required=True, type=Path, help="folder of labels with the same names"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    for flag, count, default, text in (
        ("--foreground", "+", 1, "label values of the foreground"),
        (
            "--ignore",
            "*",
            2,
            "label values that are not scored, where none of the others names them",
        ),
        ("--background", "*", 0, "label values of the background"),
    ):
        text += f"; 'rest' means all values not named by another flag (default: {default})"
        parser.add_argument(flag, type=label_value, nargs=count, default=[default], help=text)
    parser.add_argument(
        "--classes",
        nargs="+",
        default=(),
        metavar="NAME=VALUES",
        help="several classes instead of --foreground, as sheet=1 ink=3,4; predictions hold label "
        "values, and scores are means over the classes",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="threshold on probabilities (default: 0.5)"
    )
    parser.add_argument(
        "--thin", action="store_true", help="add clDice, skeleton and distance scores"
    )
    parser.add_argument("--competition", action="store_true", help="add the competition score")
    parser.add_argument(
        "--constants",
        action="store_true",
        help="also score both constant predictors by --competition; four times slower",
    )
    parser.add_argument(
        "--background_target",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="intended share of predicted background (default: the share in the labels)",
    )
    parser.add_argument(
        "--camouflage",
        action="store_true",
        help="score grey maps of images against masks with the measures for camouflaged objects",
    )
    arguments = parser.parse_args(argv)
    return exit_status(lambda: _run(arguments))


def _run(arguments):
    inputs = arguments.predictions, arguments.labels
    outputs.require_file(arguments.output, "evaluate", inside=inputs)
    if arguments.camouflage:
        return score_images.run(*inputs, arguments.output)
    return _evaluate(arguments)


def _evaluate(arguments):
    _check(arguments)
    headings = OVERLAP | (THIN if arguments.thin else {})
    headings |= COMPETITION if arguments.competition else {}
    scored, warnings, errors = _score(arguments, headings)
    content = {
        "volumes": {name: found | on.as_json() for name, (_, found, on) in scored.items()},
        "errors": errors,
        "warnings": warnings,
        "judged_on": judged.weakest(on for *_, on in scored.values()).as_json(),
    }
    if scored:
        counts = {name: counted for name, (counted, *_) in scored.items()}
        on = {name: one for name, (*_, one) in scored.items()}
        content |= _summary(counts, content["volumes"], judged.seen(on), headings, arguments)
        _print_balance(content["balance"])
        if caution := judged.caution(on):
            print(caution)
    if arguments.output:
        write_json(arguments.output, outputs.marked(content, "evaluate"))
    for sentence in warnings.values():
        print(f"Warning: {sentence}", file=sys.stderr)
    return report_errors(errors.values(), len(errors) + len(scored), "volumes")


def _check(arguments):
    """Raise a ValueError for an invalid flag."""
    if not 0 < arguments.threshold < 1:
        raise ValueError(f"--threshold is {arguments.threshold}; give a number between 0 and 1.")
    if arguments.constants and not arguments.competition:
        raise ValueError("--constants extends the competition score: pass --competition too.")
    for flag in ("thin", "competition"):
        if arguments.classes and getattr(arguments, flag):
            raise ValueError(f"--{flag} scores one class: leave it out, or leave out --classes.")
    if arguments.background_target:
        require_target(arguments.background_target, "--background_target")


def _score(arguments, headings):
    """Score the volumes and print a row for each.

    Returns:
      ({id: (Confusion, scores, JudgedOn)}, {id: warning}, {id: error}).
    """
    score = functools.partial(
        evaluate_volume,
        table=label_table(
            arguments.foreground,
            arguments.ignore,
            arguments.background,
            arguments.classes,
            prefix="--",
        ),
        threshold=arguments.threshold,
        thin=arguments.thin,
        competition=arguments.competition,
        constants=arguments.constants,
    )
    folders, nouns = (arguments.predictions, arguments.labels), ("prediction", "label")
    results = score_folders(*folders, find_images, nouns, score)
    scored, warnings, errors = {}, {}, {}
    for volume, result in results:
        if isinstance(result, Exception):
            errors[volume.id] = str(result)
            continue
        if not scored:
            _row("volume", headings.values())
        counts, found = result
        on = judged.of_prediction(volume.image, volume.id)
        scored[volume.id] = counts, found, on
        note = "  training volume" if on.volumes == judged.TRAINING else ""
        if "parts" in found:
            note += f"  in {found['parts']} parts"
            note += (
                ", whose competition scores are weighted by labelled voxels" * arguments.competition
            )
        _row(volume.id, [f"{found[key]:.4f}" for key in headings], note=note)
        _rows_of_classes(found, headings)
        if not found["foreground_predicted"] and found["foreground_label"]:
            warnings[volume.id] = (
                f"The prediction of {volume.id} has no foreground among the labelled voxels, but "
                "its label does: check the prediction or the threshold."
            )
    return scored, warnings, errors


def _summary(counts, volumes, trained_on, headings, arguments):
    """Print and return the summary of all volumes: pooled, mean, shares and balance."""
    columns = {key: [found[key] for found in volumes.values()] for key in headings}
    found = {
        "pooled": scores(sum(counts.values())),
        "mean": {key: float(np.mean(column)) for key, column in columns.items()},
    }
    note = f"  {len(trained_on)} of {len(volumes)} are training volumes" if trained_on else ""
    _row("pooled", [f"{found['pooled'][key]:.4f}" for key in OVERLAP], note=note)
    _rows_of_classes(found["pooled"], OVERLAP)
    _row("mean", [f"{value:.4f}" for value in found["mean"].values()], note=note)
    for side in ("foreground_predicted", "foreground_label"):
        found[side] = share_statistics(columns[side])
        numbers = (f"{key} {value:.4f}" for key, value in found[side].items())
        print(f"{side.replace('_', ' ')}: {', '.join(numbers)}")
    competition = None
    if arguments.constants:
        keys = {"model": "score"} | {name: f"score_{name}" for name in CONSTANTS}
        competition = {
            name: float(np.mean([one[key] for one in volumes.values()]))
            for name, key in keys.items()
        }
    balance = class_balance(
        {name: together(one) for name, one in counts.items()},
        arguments.background_target,
        competition=competition,
        noun="training volume" if len(trained_on) == len(volumes) else "volume",
    )
    return found | {"balance": balance}


def _rows_of_classes(found, headings):
    for name, of_class in found.get("classes", {}).items():
        _row(f"  {name}", [f"{of_class[key]:.4f}" for key in headings])


def _print_balance(balance):
    histogram = balance["histogram"]
    print()
    _row("volumes by foreground", [f"to {100 * edge:.0f} %" for edge in histogram["edges"][1:]])
    for side in ("predicted", "labelled"):
        _row(side, histogram[side])
    print()
    answers = balance["constants"]
    columns = [
        (kind, key) for kind in ("pooled", "mean") for key in SHOWN if key in answers[kind]["model"]
    ]
    _row("against constants", [f"{kind} {SHOWN[key]}" for kind, key in columns], width=16)
    for answer, name in {"model": "model", **CONSTANTS}.items():
        values = [answers[kind][answer][key] for kind, key in columns]
        _row(name, [f"{value:.4f}" for value in values], width=16)
    print()
    for remark in balance["remarks"]:
        print(remark)


def _row(name, cells, width=9, note=""):
    print("  ".join([f"{name:24}", *(f"{cell:>{width}}" for cell in cells)]) + note, flush=True)


if __name__ == "__main__":
    sys.exit(main())
