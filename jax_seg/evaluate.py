"""Score a folder of predictions against a folder of labels.

python -m jax_seg.evaluate --predictions FOLDER --labels FOLDER --output scores.json
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jax_seg.data.folder import find_images
from jax_seg.data.labels import encode, label_table
from jax_seg.data.volumes import open_volume
from jax_seg.files import write_json
from jax_seg.metrics.competition import competition_score
from jax_seg.metrics.foreground import foreground_scores, share_statistics
from jax_seg.metrics.segmentation import Confusion, confusion, scores

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
    voxels = _read(open_volume(path))
    wrong = (voxels < 0) | (voxels > 1)
    if wrong.any():
        raise ValueError(
            f"{path} holds the value {voxels[wrong][0]}: save 0 and 1, or floating-point "
            "probabilities between them."
        )
    return (voxels > threshold).astype(np.uint8)


def evaluate_volume(
    prediction_path, label_path, table, *, threshold=0.5, thin=False, competition=False
):
    """Score one volume.

    Args:
      prediction_path: of `read_prediction`.
      label_path: a volume of label values.
      table: of `label_table`, which says what they mean.
      threshold: on probabilities.
      thin: add `foreground_scores`, distances in voxels.
      competition: add the fields of CompetitionScore.

    Returns:
      (Confusion, dict): the counts of the labelled voxels, and the scores by name.

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
    label = encode(_read(reader), table, label_path)
    counts = confusion(prediction, label)
    if not counts.labelled:
        raise ValueError(f"{label_path} has no labelled voxel: leave this volume out.")
    found = scores(counts)
    if thin:
        found |= foreground_scores(prediction, label)
    if competition:
        found |= asdict(competition_score(prediction, label))
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


def _read(reader):
    return reader.read((0, 0, 0), reader.shape)


def _row(name, cells):
    print("  ".join([f"{name:24}", *(f"{cell:>9}" for cell in cells)]), flush=True)


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
    arguments = parser.parse_args(argv)
    try:
        return _evaluate(arguments)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _evaluate(arguments):
    if not 0 < arguments.threshold < 1:
        raise ValueError(f"--threshold is {arguments.threshold}; give a number between 0 and 1.")
    results = evaluate_folders(
        arguments.predictions,
        arguments.labels,
        label_table(arguments.foreground, arguments.ignore, arguments.background),
        threshold=arguments.threshold,
        thin=arguments.thin,
        competition=arguments.competition,
    )
    headings = OVERLAP | (THIN if arguments.thin else {})
    headings |= COMPETITION if arguments.competition else {}
    total, volumes, errors = Confusion(), {}, {}
    for name, result in results:
        if isinstance(result, Exception):
            errors[name] = str(result)
            continue
        if not volumes:
            _row("volume", headings.values())
        counts, volumes[name] = result
        total += counts
        _row(name, [f"{volumes[name][key]:.4f}" for key in headings])
    content = {"volumes": volumes, "errors": errors}
    if volumes:
        columns = {key: [found[key] for found in volumes.values()] for key in headings}
        content["pooled"] = scores(total)
        content["mean"] = {key: float(np.mean(column)) for key, column in columns.items()}
        _row("pooled", [f"{value:.4f}" for value in content["pooled"].values()])
        _row("mean", [f"{value:.4f}" for value in content["mean"].values()])
        for side in ("foreground_predicted", "foreground_label"):
            content[side] = share_statistics(columns[side])
            numbers = (f"{key} {value:.4f}" for key, value in content[side].items())
            print(f"{side.replace('_', ' ')}: {', '.join(numbers)}")
    if arguments.output:
        write_json(arguments.output, content)
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
