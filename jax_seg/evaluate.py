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
from jax_seg.metrics.segmentation import confusion, scores

HEADINGS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "foreground_predicted": "predicted",
    "foreground_label": "labelled",
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


def evaluate_volume(prediction_path, label_path, table, *, threshold=0.5, competition=False):
    """Score one volume.

    Args:
      prediction_path: of `read_prediction`.
      label_path: a volume of label values.
      table: of `label_table`, which says what they mean.
      threshold: on probabilities.
      competition: add the competition's score.

    Returns:
      (Confusion, dict of floats): the counts of the labelled voxels, and their `scores`, with
      `competition` also the fields of CompetitionScore.

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
    if competition:
        found |= asdict(competition_score(prediction, label))
    return counts, found


def _read(reader):
    return reader.read((0, 0, 0), reader.shape)


def evaluate_folders(predictions, labels, table, *, threshold=0.5, competition=False, report=print):
    """Score every volume that has a prediction and a label, and say what is wrong with the others.

    Args:
      predictions, labels: folders of volumes with the same file names, extensions aside.
      table, threshold, competition: of `evaluate_volume`.
      report: called with each line of a table, as soon as it is known.

    Returns:
      dict: volumes, id -> scores; pooled, scores of all voxels together; mean, of the volumes'
      scores; errors, id -> sentence. Without a scored volume pooled and mean are empty.

    Raises:
      FileNotFoundError, ValueError: a folder is missing, empty, or has an id twice.
    """
    predicted = {volume.id: volume.image for volume in find_images(predictions)}
    labelled = {volume.id: volume.image for volume in find_images(labels)}
    columns = list(HEADINGS) if competition else list(HEADINGS)[:7]
    ids = sorted(predicted.keys() | labelled.keys())
    width = max(map(len, [*ids, "volume"]))

    def row(name, cells):
        report("  ".join([f"{name:{width}}", *(f"{cell:>9}" for cell in cells)]))

    def number_row(name, found):
        row(name, [f"{found[column]:.4f}" if column in found else "" for column in columns])

    row("volume", [HEADINGS[column] for column in columns])
    counts, volumes, errors = [], {}, {}
    for name in ids:
        try:
            if name not in predicted:
                raise FileNotFoundError(
                    f"{labelled[name]} has no prediction in {predictions}: predict it too."
                )
            if name not in labelled:
                raise FileNotFoundError(
                    f"{predicted[name]} has no label in {labels}: add it or move this one out."
                )
            count, volumes[name] = evaluate_volume(
                predicted[name],
                labelled[name],
                table,
                threshold=threshold,
                competition=competition,
            )
        except (ValueError, OSError) as error:
            errors[name] = str(error)
            continue
        counts.append(count)
        number_row(name, volumes[name])
    pooled, mean = {}, {}
    if counts:
        pooled = scores(sum(counts))
        mean = {c: float(np.mean([found[c] for found in volumes.values()])) for c in columns}
        number_row("pooled", pooled)
        number_row("mean", mean)
    return {"volumes": volumes, "pooled": pooled, "mean": mean, "errors": errors}


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
    parser.add_argument("--competition", action="store_true", help="add the competition's score")
    arguments = parser.parse_args(argv)
    try:
        if not 0 < arguments.threshold < 1:
            raise ValueError(
                f"--threshold is {arguments.threshold}; give a number between 0 and 1."
            )
        result = evaluate_folders(
            arguments.predictions,
            arguments.labels,
            label_table(arguments.foreground, arguments.ignore, arguments.background),
            threshold=arguments.threshold,
            competition=arguments.competition,
        )
        if arguments.output:
            write_json(arguments.output, result)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for sentence in result["errors"].values():
        print(f"Error: {sentence}", file=sys.stderr)
    if result["errors"]:
        total = len(result["errors"]) + len(result["volumes"])
        print(f"{len(result['errors'])} of {total} volumes were not scored.", file=sys.stderr)
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
