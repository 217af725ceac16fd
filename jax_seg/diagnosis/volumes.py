"""Checks of volumes: their intensities and spacing; see also `leakage` and `corruption`."""

import numpy as np
from scipy import ndimage

from jax_seg.data.preprocess import PerVolume
from jax_seg.diagnosis import appearance
from jax_seg.diagnosis.corruption import corrupt
from jax_seg.diagnosis.evidence import has_both
from jax_seg.diagnosis.finding import Check, Finding, Skipped, listed
from jax_seg.diagnosis.leakage import leakage
from jax_seg.ops.classes import BACKGROUND, FOREGROUND

FEWEST = 4  # volumes, to judge one by the others
SHIFTED = 0.6  # of the usual contrast: background is then nearer to foreground's level
APART = 2.5  # times as far as the farthest of the others
FEW = 1 / 3  # of the volumes: more of them are no exception
CONTRAST = 0.3  # standard deviations between foreground and background, which noise does not reach
SEPARATE = 3.0  # times: coarser along depth than isotropic kernels are made for
LAGS = 16  # pixels in the plane with which a step along depth is compared
EXAMINED = 4  # volumes whose spacing is measured


def shift(evidence):
    """Findings of volumes whose intensities, or whose contrast, are unlike the others'."""
    examples = list({example.id: example for example in evidence.examples}.values())
    if len(examples) < FEWEST:
        raise Skipped(f"fewer than {FEWEST} volumes to compare")
    contrasts = np.array([contrast(one.image, one.label) for one in examples])
    inverted = np.flatnonzero(_inverted(contrasts))
    if len(inverted):
        return [_inverted_finding(examples, contrasts, inverted)]
    if isinstance(evidence.task.preprocessing, PerVolume):
        raise Skipped("each volume is normalised by its own intensities")
    examples = [example for example in examples if has_both(example.label)]
    if len(examples) < FEWEST:
        raise Skipped(f"fewer than {FEWEST} volumes have foreground and background")
    levels = np.array([_levels(one.image, one.label) for one in examples])
    distances = distances_to_the_usual(levels)
    far = np.flatnonzero(_far(distances))
    return [_shifted_finding(examples, levels, distances, far)] if len(far) else []


def contrast(image, label):
    """Mean intensity of foreground above background in standard deviations; 0 without either."""
    foreground, background = image[label == FOREGROUND], image[label == BACKGROUND]
    if not foreground.size or not background.size:
        return 0.0
    difference = foreground.mean(dtype=float) - background.mean(dtype=float)
    return float(difference / max(np.std(image, dtype=float), 1e-12))


def distances_to_the_usual(levels):
    """[N] mean distance of levels [N, 2] to their medians, as a share of the usual contrast.

    The levels of foreground and background: unlike percentiles of the image, they do not depend on
    how much of it is air.
    """
    usual = np.median(levels, 0)
    return np.abs(levels - usual).mean(1) / max(abs(usual[1] - usual[0]), 1e-12)


def _levels(image, label):
    return [np.median(image[label == kind]) for kind in (BACKGROUND, FOREGROUND)]


def _inverted(contrasts):
    """Volumes whose contrast has the sign that none of the others has."""
    sign = np.sign(np.median(contrasts))
    opposite = sign * contrasts < -CONTRAST
    same = sign * contrasts > CONTRAST
    clear = np.all(opposite | same) and 0 < opposite.sum() <= FEW * len(contrasts)
    return opposite & clear


def _far(distances):
    far = distances > SHIFTED
    if not far.any() or far.sum() > FEW * len(distances):
        return np.zeros(len(distances), bool)
    return far & (distances > APART * distances[~far].max())


def _inverted_finding(examples, contrasts, apart):
    usual, own = np.median(np.delete(contrasts, apart)), np.mean(contrasts[apart])
    darker = "darker" if own < 0 else "brighter"
    return Finding(
        "data.shift",
        "error",
        f"In {_named(examples, apart)} foreground is {darker} than background, by {abs(own):.1f} "
        f"standard deviations of the image, and in all other volumes it is the other way round "
        f"({abs(usual):.1f}): the image is inverted.",
        {
            "volumes": len(apart),
            "examined": len(examples),
            "contrast": round(float(own), 4),
            "contrast_of_the_others": round(float(usual), 4),
        },
        _place(examples, apart),
        "Invert the image, or remove the volume.",
    )


def _shifted_finding(examples, levels, distances, apart):
    usual, own = np.median(levels, 0), np.mean(levels[apart], 0)
    distance, others = float(distances[apart].mean()), float(np.delete(distances, apart).max())
    return Finding(
        "data.shift",
        "warning",
        f"In {_named(examples, apart)} background is at {own[0]:.4g} and foreground at "
        f"{own[1]:.4g}, usually they are at {usual[0]:.4g} and {usual[1]:.4g}: the difference is "
        f"{100 * distance:.0f} % of the usual contrast, and at most {100 * others:.0f} % in the "
        "others.",
        {
            "volumes": len(apart),
            "examined": len(examples),
            "distance": round(distance, 4),
            "distance_of_the_others": round(others, 4),
            "of_validation_alone": {examples[i].part for i in apart} == {"validation"},
        },
        _place(examples, apart),
        "Convert the volume to the scale of the others, or widen augment.brightness_range and "
        "augment.contrast_range.",
    )


def spacing(evidence):
    """Findings of depth that is coarser than patch and network assume."""
    volumes = [e for e in evidence.part("training")[:EXAMINED] if min(e.image.shape) >= 8]
    if not volumes:
        raise Skipped("no volume has eight slices")
    voxels = appearance.VOXELS[evidence.quick]
    measured = float(
        np.median([anisotropy(e.image[appearance.middle(e.image.shape, voxels)]) for e in volumes])
    )
    levels = evidence.field("model.planar_levels", 0)
    patch = evidence.field("data.patch")
    wanted = round(np.log2(measured))
    if measured < SEPARATE or levels >= wanted - 1:
        return []
    along = max(patch[1:]) / patch[0]
    suited = [max(patch[0] // 2, 8), *patch[1:]] if along < np.sqrt(measured) else list(patch)
    return [
        Finding(
            "data.spacing",
            "warning",
            f"A step along depth changes the image as much as {measured:.1f} in the plane (median "
            f"of {len(volumes)} volumes), but the network treats all axes alike in all but "
            f"{levels} levels, and the patch is {'×'.join(map(str, patch))} voxels.",
            {
                "steps_in_plane": round(measured, 3),
                "planar_levels": levels,
                "planar_levels_that_fit": wanted,
                "patch_width_over_depth": round(float(along), 3),
            },
            "model.planar_levels",
            f"Set model.planar_levels={wanted}"
            + (f", data.patch={tuple(suited)}" if suited != list(patch) else "")
            + " and augment.in_plane_only=True.",
        )
    ]


def anisotropy(image):
    """In-plane steps that change an image as much as one step along depth; 1 if isotropic.

    Compared by the autocorrelation of the image without its trend. Noise lowers it alike at every
    step of one voxel or more, so that it does not matter here.
    """
    image = image.astype(np.float32)
    detail = image - ndimage.gaussian_filter(image, (0, LAGS, LAGS))
    along = _correlation(detail, 0, 1)
    plane = [
        np.mean([_correlation(detail, axis, lag) for axis in (1, 2) if image.shape[axis] > lag])
        for lag in range(1, min(LAGS, max(image.shape[1:]) // 2) + 1)
    ]
    plane = np.minimum.accumulate(plane)
    if along >= plane[0]:
        return 1.0
    if along <= plane[-1]:
        return float(len(plane))
    return float(np.interp(-along, -plane, np.arange(1, len(plane) + 1)))


def _correlation(detail, axis, lag):
    moved = np.moveaxis(detail, axis, 0)
    before, after = moved[:-lag], moved[lag:]
    variance = np.sqrt(np.mean(before**2) * np.mean(after**2))
    return float(np.mean(before * after) / max(variance, 1e-12))


def _named(examples, apart):
    return f"{listed([examples[i].id for i in apart])} ({len(apart)} of {len(examples)} volumes)"


def _place(examples, apart):
    return str(examples[apart[0]].image_file) if len(apart) == 1 else "data.images"


CHECKS = (
    Check(("data.leakage",), leakage, quick=True),
    Check(("data.corrupt",), corrupt, quick=True, not_for={"image": "an image has no slices"}),
    Check(
        ("data.shift",), shift, quick=True, not_for={"image": "photographs differ in brightness"}
    ),
    Check(("data.spacing",), spacing, quick=True, not_for={"image": "images have no depth"}),
)
