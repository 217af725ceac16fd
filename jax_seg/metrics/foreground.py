"""What overlap scores miss: holes in thin sheets, distance between surfaces, topology."""

import edt
import numpy as np
from skimage.morphology import skeletonize

from jax_seg.metrics.betti_matching import betti_numbers
from jax_seg.metrics.segmentation import require_comparable
from jax_seg.ops.classes import FOREGROUND, MASKED


def foreground_scores(prediction, label, spacing=(1.0, 1.0, 1.0)):
    """Scores of thin structures; unlabelled voxels do not count.

    Args:
      prediction: [D, H, W], 1 foreground and 0 background.
      label: [D, H, W], encoded as in `ops.classes`.
      spacing: voxel size along each axis, in the unit of the distances.

    Returns:
      dict of floats. skeleton_precision is the share of the predicted medial surface inside the
      labelled foreground, skeleton_recall the converse, cldice their harmonic mean (Shit et al.
      2021, "clDice", eq. 1 and 2); surface_mean the mean distance from the surface voxels of each
      mask to the other's, surface_95 the larger of the two directions' 95th percentiles;
      components, loops and cavities, predicted and labelled, the Betti numbers of the labelled
      part. Two empty masks score 1 at distance 0; where one is empty the distance is the
      diagonal of the volume.

    Raises:
      ValueError: the shapes differ, or the label is not encoded.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    require_comparable(prediction, label)
    labelled = label != MASKED
    masks = (prediction == 1) & labelled, label == FOREGROUND
    # A mask that ends at unlabelled voxels would grow skeleton branches there.
    medial = medial_surface(prediction == 1) & labelled, medial_surface(masks[1])
    precision, recall = (
        _share(skeleton, other) for skeleton, other in zip(medial, masks[::-1], strict=True)
    )
    mean, percentile = surface_distances(*masks, labelled, spacing)
    scores = {
        "cldice": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "skeleton_precision": precision,
        "skeleton_recall": recall,
        "surface_mean": mean,
        "surface_95": percentile,
    }
    for side, mask in zip(("predicted", "label"), masks, strict=True):
        for name, number in zip(
            ("components", "loops", "cavities"), betti_numbers(mask), strict=True
        ):
            scores[f"{name}_{side}"] = float(number)
    return scores


def medial_surface(mask):
    """Voxels [D, H, W] on the skeleton of a plane section along any axis.

    Thinning in three dimensions reduces a sheet to curves. A section across it is a band, whose
    skeleton runs along the sheet, and of the three directions at least two cut across.
    """
    found = np.zeros(mask.shape, bool)
    for axis in range(3):
        sections = np.moveaxis(mask, axis, 0)
        for section, skeleton in zip(sections, np.moveaxis(found, axis, 0), strict=True):
            if section.any():
                skeleton |= skeletonize(section)
    return found


def surface_distances(prediction, label, labelled, spacing=(1.0, 1.0, 1.0)):
    """(mean, 95 %) distance between two surfaces, see `foreground_scores`.

    A surface voxel has a face in common with labelled background: where a mask ends at the border
    of the volume or of the labelled part, its surface is not known.

    Args:
      prediction, label, labelled: [D, H, W] bool.
      spacing: voxel size along each axis.
    """
    if not prediction.any() or not label.any():
        worst = float(np.linalg.norm(np.multiply(label.shape, spacing)))
        return (worst, worst) if prediction.any() or label.any() else (0.0, 0.0)
    surfaces = [_surface(mask, labelled) for mask in (prediction, label)]
    if not all(surface.any() for surface in surfaces):
        surfaces = [prediction, label]
    distances = [
        edt.edt(~other, anisotropy=spacing, black_border=False, parallel=2)[surface]
        for surface, other in (surfaces, surfaces[::-1])
    ]
    mean = np.concatenate(distances).mean(dtype=np.float64)
    return float(mean), max(float(np.percentile(d, 95)) for d in distances)


def share_statistics(shares):
    """Mean, median, standard deviation and range of the volumes' foreground shares."""
    return {
        "mean": float(np.mean(shares)),
        "median": float(np.median(shares)),
        "std": float(np.std(shares)),
        "min": float(np.min(shares)),
        "max": float(np.max(shares)),
    }


def _share(part, whole):
    """Share of `part` that lies in `whole`; of nothing 1 where the whole is empty too, else 0."""
    size = np.count_nonzero(part)
    return float(np.count_nonzero(part & whole) / size if size else not whole.any())


def _surface(mask, labelled):
    background = labelled & ~mask
    surface = np.zeros_like(mask)
    for axis in range(3):
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        surface[low] |= background[high]
        surface[high] |= background[low]
    return surface & mask
