"""Score a folder of predictions against a folder of labels.

python -m jax_seg.evaluate --predictions FOLDER --labels FOLDER --output scores.json
python -m jax_seg.evaluate --camouflage --predictions MAPS --labels COD10K-v3/Test/GT_Object
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jax_seg.data.folder import find_images
from jax_seg.data.labels import encode, label_table
from jax_seg.data.readers import open_volume, read_volume, read_whole
from jax_seg.metrics.balance import BACKGROUND_TARGET, CONSTANTS, JUDGED, class_balance
from jax_seg.metrics.competition import competition_score
from jax_seg.metrics.foreground import foreground_scores, share_statistics
from jax_seg.metrics.segmentation import UNLABELED, confusion, scores
from jax_seg.system import outputs
from jax_seg.system.commands import exit_status
from jax_seg.system.files import write_json
from jax_seg.tasks import score_images

OVERLAP = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "foreground_predicted": "predicted",
    "foreground_label": "labelled",
}
THIN = {
    "cldice": "clDice",
    "skeleton_recall": "skeleton",
    "surface_mean": "distance",
    "surface_95": "95 %",
}
COMPETITION = {
    "score": "score",
    "toposcore": "topology",
    "surface_dice": "surface",
    "voi_score": "VOI",
}


def read_prediction(path, threshold=0.5):
    """A prediction as a mask.

    Args:
      path: a volume of integers 0 and 1, or of floating-point probabilities.
      threshold: probabilities above it are foreground.

    Returns:
      [D, H, W] uint8 of 0 and 1.

    Raises:
      FileNotFoundError: nothing at `path`.
      ValueError: not a volume, or a value is no probability and neither 0 nor 1.
    """
    voxels = read_volume(path)
    wrong = (voxels < 0) | (voxels > 1)
    if wrong.any():
        raise ValueError(
            f"{path} holds the value {voxels[wrong][0]}: save 0 and 1, or floating-point "
            "probabilities between them."
        )
    return (voxels > threshold).astype(np.uint8)


def evaluate_volume(prediction_path, label_path, table, *, threshold=0.5, **options):
    """Score one volume of the disk.

    Args:
      prediction_path: of `read_prediction`.
      label_path: a volume of label values.
      table: of `label_table`, which says what they mean.
      threshold: on probabilities.
      **options: of `score_volume`.

    Returns:
      (Confusion, dict), as `score_volume`.

    Raises:
      FileNotFoundError, ValueError: bad input, naming the file.
    """
    reader, predicted_shape = open_volume(label_path), open_volume(prediction_path).shape
    if predicted_shape != reader.shape:
        raise ValueError(
            f"{prediction_path} has shape {predicted_shape} but {label_path} has {reader.shape}: "
            "predict the whole volume that was labelled."
        )
    prediction = read_prediction(prediction_path, threshold)
    label = encode(read_whole(reader), table, label_path, prefix="--")
    if (label == UNLABELED).all():
        raise ValueError(f"{label_path} has no labelled voxel: leave this volume out.")
    return score_volume(prediction, label, **options)


def score_volume(prediction, label, *, thin=False, competition=False, constants=False):
    """Score one volume.

    Args:
      prediction: [D, H, W], 1 foreground and 0 background.
      label: [D, H, W], 1 foreground, 0 background, 2 unlabeled.
      thin: add `foreground_scores`, distances in voxels.
      competition: add the fields of CompetitionScore.
      constants: add the competition's score of foreground and of background everywhere, as
        score_all_foreground and score_all_background.

    Returns:
      (Confusion, dict): the counts of the labelled voxels, and the scores by name.

    Raises:
      ValueError: the shapes differ, or no voxel is labelled.
    """
    counts = confusion(prediction, label)
    found = scores(counts)
    if thin:
        found |= foreground_scores(prediction, label)
    if competition:
        found |= asdict(competition_score(prediction, label))
    if constants:
        for name, value in (("all_foreground", 1), ("all_background", 0)):
            constant = np.full_like(prediction, value)
            found[f"score_{name}"] = competition_score(constant, label).score
    return counts, found


def evaluate_folders(predictions, labels, table, **options):
    """Score the volumes of two folders that have the same file names, extensions aside.

    Args:
      predictions, labels: folders of volumes.
      table, **options: of `evaluate_volume`.

    Yields:
      (id, what `evaluate_volume` returns, or the error that it raised), for every id of either
      folder in order.

    Raises:
      FileNotFoundError, ValueError: a folder is missing, empty, or has an id twice.
    """
    predicted = {volume.id: volume.image for volume in find_images(predictions)}
    labelled = {volume.id: volume.image for volume in find_images(labels)}
    for name in sorted(predicted.keys() | labelled.keys()):
        try:
            if name not in predicted:
                raise FileNotFoundError(
                    f"{labelled[name]} has no prediction in {predictions}: predict it too."
                )
            if name not in labelled:
                raise FileNotFoundError(
                    f"{predicted[name]} has no label in {labels}: add it or move this one out."
                )
            yield name, evaluate_volume(predicted[name], labelled[name], table, **options)
        except (ValueError, OSError) as error:
            yield name, error


def _row(name, cells, width=9):
    print("  ".join([f"{name:24}", *(f"{cell:>{width}}" for cell in cells)]), flush=True)


def _print_balance(balance):
    histogram = balance["histogram"]
    print()
    _row("volumes by foreground", [f"to {100 * edge:.0f} %" for edge in histogram["edges"][1:]])
    for side in ("predicted", "labelled"):
        _row(side, histogram[side])
    print()
    answers = balance["constants"]
    columns = [
        (kind, key)
        for kind in ("pooled", "mean")
        for key in JUDGED
        if key in answers[kind]["model"]
    ]
    _row("against constants", [f"{kind} {JUDGED[key]}" for kind, key in columns], width=16)
    for answer, name in {"model": "model", **CONSTANTS}.items():
        values = [answers[kind][answer][key] for kind, key in columns]
        _row(name, [f"{value:.4f}" for value in values], width=16)
    print()
    for remark in balance["remarks"]:
        print(remark)


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_seg.evaluate",
        description="Score predictions against labels. Unlabeled voxels do not count.",
    )
    parser.add_argument("--predictions", required=True, type=Path, help="folder of volumes")
    parser.add_argument("--labels", required=True, type=Path, help="folder of the same names")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    parser.add_argument("--foreground", type=int, nargs="+", default=[1], help="label values")
    parser.add_argument("--ignore", type=int, nargs="*", default=[2], help="values not to score")
    parser.add_argument("--background", type=int, nargs="+", default=[0], help="label values")
    parser.add_argument("--threshold", type=float, default=0.5, help="on probabilities")
    parser.add_argument("--thin", action="store_true", help="add clDice, skeletons and distances")
    parser.add_argument("--competition", action="store_true", help="add the competition's score")
    parser.add_argument(
        "--constants",
        action="store_true",
        help="with --competition: score both constant predictors by it too, four times slower",
    )
    parser.add_argument(
        "--background_target",
        type=float,
        nargs=2,
        default=BACKGROUND_TARGET,
        metavar=("LOW", "HIGH"),
        help="share of predicted background that is aimed at; by default 0.3 0.7",
    )
    parser.add_argument(
        "--camouflage",
        action="store_true",
        help="score grey maps of images against masks, by the measures of camouflaged objects",
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
    if not 0 < arguments.threshold < 1:
        raise ValueError(f"--threshold is {arguments.threshold}; give a number between 0 and 1.")
    if arguments.constants and not arguments.competition:
        raise ValueError("--constants adds to the competition's score: pass --competition too.")
    low, high = arguments.background_target
    if not 0 <= low <= high <= 1:
        raise ValueError(f"--background_target is {low} {high}; give two rising shares in [0, 1].")
    results = evaluate_folders(
        arguments.predictions,
        arguments.labels,
        label_table(arguments.foreground, arguments.ignore, arguments.background, prefix="--"),
        threshold=arguments.threshold,
        thin=arguments.thin,
        competition=arguments.competition,
        constants=arguments.constants,
    )
    headings = OVERLAP | (THIN if arguments.thin else {})
    headings |= COMPETITION if arguments.competition else {}
    counts, volumes, errors, warnings = {}, {}, {}, {}
    for name, result in results:
        if isinstance(result, Exception):
            errors[name] = str(result)
            continue
        if not volumes:
            _row("volume", headings.values())
        counts[name], volumes[name] = result
        _row(name, [f"{volumes[name][key]:.4f}" for key in headings])
        if not volumes[name]["foreground_predicted"] and volumes[name]["foreground_label"]:
            warnings[name] = (
                f"The prediction of {name} has no foreground where voxels are labelled, but its "
                "label has: it is scored as it stands; check the prediction or the threshold."
            )
    content = {"volumes": volumes, "errors": errors, "warnings": warnings}
    if volumes:
        columns = {key: [found[key] for found in volumes.values()] for key in headings}
        content["pooled"] = scores(sum(counts.values()))
        content["mean"] = {key: float(np.mean(column)) for key, column in columns.items()}
        _row("pooled", [f"{value:.4f}" for value in content["pooled"].values()])
        _row("mean", [f"{value:.4f}" for value in content["mean"].values()])
        for side in ("foreground_predicted", "foreground_label"):
            content[side] = share_statistics(columns[side])
            numbers = (f"{key} {value:.4f}" for key, value in content[side].items())
            print(f"{side.replace('_', ' ')}: {', '.join(numbers)}")
        competition = None
        if arguments.constants:
            keys = {"model": "score"} | {name: f"score_{name}" for name in CONSTANTS}
            competition = {
                name: float(np.mean([found[key] for found in volumes.values()]))
                for name, key in keys.items()
            }
        content["balance"] = class_balance(
            counts, arguments.background_target, competition=competition
        )
        _print_balance(content["balance"])
    if arguments.output:
        write_json(arguments.output, outputs.marked(content, "evaluate"))
    for sentence in warnings.values():
        print(f"Warning: {sentence}", file=sys.stderr)
    for sentence in errors.values():
        print(f"Error: {sentence}", file=sys.stderr)
    if errors:
        print(
            f"{len(errors)} of {len(errors) + len(volumes)} volumes were not scored.",
            file=sys.stderr,
        )
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
