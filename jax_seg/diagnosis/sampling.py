"""Checks of sampling: what the patches of a run hold, and what none of them reaches."""

import dataclasses

import numpy as np

from jax_seg.data.sampling import AXES
from jax_seg.diagnosis.finding import Check, Finding, Skipped, listed
from jax_seg.diagnosis.schedules import epochs_so_far
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED
from jax_seg.training import pace, stages

MOST = 0.5  # by the meaning of "most": of batches without foreground, of the voxels of a patch
MISSED = 0.75  # of the labelled voxels: missing half of them, healthy short runs learn anyway
UNEVEN = 0.25  # of the labelled voxels are missed that places drawn evenly would reach
NEARLY_ALL = 0.9  # of batches without foreground: the network learns background
MANY = 1 / 3  # of the patches: that share of the time of a run is lost
FEW = 0.1  # of the voxels are labelled, or of the labelled share of other volumes
ISLANDS = 3.0  # halving the patch raises the labelled share eightfold around an island, twice at a
# sheet and not at all where labels are spread evenly
DRAWS = {True: 200, False: 2000}  # places that are simulated in a volume
VOXELS = 2000  # of a volume, drawn at random: shares are then exact to 1 %
CLEAR = 1.64  # standard errors: one-sided, 5 % of samples are as far off by chance


def no_foreground(evidence):
    """Batches whose samples all lack foreground, against the volumes that have none."""
    labels = evidence.samples["label"]
    empty = np.array([not np.any(label == FOREGROUND) for label in labels])
    possible = _volumes_without_foreground(evidence)
    size = evidence.settings.batch
    share, least = empty.mean(), lower_bound(empty.mean(), len(empty))
    batches = least**size
    if batches <= MOST or least <= possible:
        return []
    noun = evidence.task.samples
    if evidence.field("data.balance_target"):
        field = "data.balance_target"
        advice = "Set data.balance_target to 0, or to the labels' own share of foreground."
    elif "data.foreground_share" in evidence.fields:
        field = "data.foreground_share"
        advice = (
            "Set data.foreground_share to 0.5, so that every second patch is placed to hold "
            "foreground."
        )
    else:
        field, advice = "data.kind", "Choose images that have an object."
    return [
        Finding(
            "sampling.no_foreground",
            "error" if batches > NEARLY_ALL else "warning",
            f"{100 * share:.0f} % of the first {len(empty)} training {noun} hold no foreground, "
            f"and so do {100 * share**size:.0f} % of the batches of {size}, whereas "
            f"{100 * possible:.0f} % of the training {evidence.task.wholes} have none.",
            {
                "empty_samples": float(share),
                "empty_batches": float(share**size),
                "volumes_without_foreground": float(possible),
                "samples": len(empty),
            },
            field,
            advice,
        )
    ]


def mostly_masked(evidence):
    """Labelled voxels within patches, against other volumes and against smaller patches."""
    if found := _one_class(evidence):
        return found
    sampler, samples = evidence.task.train, evidence.samples
    shares = _labelled_shares(sampler, samples)
    return _unlabelled_volumes(evidence, shares, samples["volume"]) or _islands(evidence, shares)


def coverage(evidence):
    """Labelled voxels that no patch of the whole run reaches, by simulating its places."""
    sampler, count = evidence.task.train, _patches_per_volume(evidence)
    numbers = _spread(len(sampler.volumes), 8)
    missed = [_missed(sampler, number, count, evidence.quick) for number in numbers]
    anywhere = dataclasses.replace(sampler, foreground_share=0.0, balance_target=0.0)
    evenly = [_missed(anywhere, number, count, evidence.quick) for number in numbers]
    by_place = np.mean(missed) - np.mean(evenly) > UNEVEN
    if np.mean(missed) <= MISSED and not by_place:
        return []
    worst = sampler.volumes[numbers[int(np.argmax(missed))]].id
    by_number = pace.updates_given(evidence.settings)
    more = "train.epoch_length" if by_number else "data.patches_per_volume"
    return [
        Finding(
            "sampling.coverage",
            "warning",
            f"{100 * np.mean(missed):.0f} % of the labelled voxels lie in no patch of the run "
            f"({count} patches of {_size(sampler.patch)} voxels in each volume; at most "
            f"{100 * max(missed):.0f} %, in {worst}); at places drawn evenly it would be "
            f"{100 * np.mean(evenly):.0f} %.",
            {
                "missed": float(np.mean(missed)),
                "missed_at_most": float(max(missed)),
                "missed_evenly": float(np.mean(evenly)),
                "patches_per_volume": count,
            },
            "data.foreground_share" if by_place else more,
            "Set data.foreground_share to 1/3 and data.balance_target to 0."
            if by_place
            else f"Raise {more} or train.epochs {_times(evenly)}-fold, or enlarge data.patch.",
        )
    ]


def _patches_per_volume(evidence):
    """The patches of each training volume in the whole run."""
    sampler, settings = evidence.task.train, evidence.settings
    if given := pace.updates_given(settings):
        epochs = [stage.last - stage.first + 1 for stage in settings.plan]
        each = [given * np.mean(stage.batches) * stage.accumulate for stage in settings.plan]
        return int(np.dot(epochs, each)) // len(sampler.volumes)
    if not pace.by_minutes(settings):
        return settings.train["epochs"] * sampler.patches_per_volume
    epochs = epochs_so_far(evidence)
    if not epochs or not evidence.run.scores:
        raise Skipped("the run measures its pace before it knows how many patches it has")
    steps = [0, *(epoch["train"]["step"] for epoch in epochs)]
    drawn = 0
    for epoch, before, after in zip(epochs, steps, steps[1:], strict=False):
        stage = stages.at(settings.plan, epoch["epoch"])
        batch = epoch["train"].get("batch", settings.batch)
        drawn += (after - before) * batch * stage.accumulate
    return drawn // len(sampler.volumes)


def padding(evidence):
    """Voxels of patches that lie outside of the volumes, against the volumes' own size."""
    sampler = evidence.task.train
    patch, shapes = np.array(sampler.patch), np.array([f.shape for f in sampler.fingerprints])
    padded = 1 - np.minimum(patch, shapes).prod(1) / patch.prod()
    if padded.mean() <= MOST:
        return []
    typical = np.median(shapes, 0).astype(int)
    fits = np.minimum(patch, typical)
    return [
        Finding(
            "sampling.padding",
            "warning",
            f"{100 * padded.mean():.0f} % of the voxels of a patch of {_size(patch)} are padding: "
            f"the training volumes have {_size(typical)} voxels (median).",
            {"padded": float(padded.mean()), **_axes("patch", patch), **_axes("volume", typical)},
            "data.patch",
            f"Set data.patch to at most {tuple(int(n) for n in fits)}.",
        )
    ]


def _volumes_without_foreground(evidence):
    """Share of the training volumes in which no patch could hold foreground."""
    if known := getattr(evidence.task.train, "fingerprints", None):
        return np.mean([not facts.counts[FOREGROUND] for facts in known])
    return np.mean([not np.any(e.label == FOREGROUND) for e in evidence.part("training")])


def _one_class(evidence):
    """All labelled voxels are foreground: what is background in the files is ignored."""
    counts = np.sum([facts.counts for facts in evidence.task.train.fingerprints], 0)
    labelled = counts[:2].sum()
    if counts[BACKGROUND]:
        return []
    return [
        Finding(
            "sampling.mostly_masked",
            "error",
            f"{100 * (1 - labelled / counts.sum()):.1f} % of the training voxels are masked, all "
            "others foreground: without labelled background, the answer is always the same.",
            {
                "masked": float(1 - labelled / counts.sum()),
                "background_of_labelled": float(counts[BACKGROUND] / labelled),
            },
            "data.ignore",
            "Name the values of background in data.background and keep them out of data.ignore.",
        )
    ]


def _labelled_shares(sampler, samples):
    """[N] share of labelled voxels of each sample within its volume: padding does not count."""
    patch = np.array(sampler.patch)
    inside = [
        np.minimum(patch, sampler.fingerprints[number].shape).prod() for number in samples["volume"]
    ]
    labelled = [np.count_nonzero(label != MASKED) for label in samples["label"]]
    return np.array(labelled) / np.array(inside)


def _unlabelled_volumes(evidence, shares, volumes):
    """Patches of volumes that are nearly unlabelled beside others that are not."""
    facts = evidence.task.train.fingerprints
    own = np.array([one.counts[:2].sum() / one.counts.sum() for one in facts])
    usual = np.quantile(own, 0.75, method="higher")
    bare = (shares < FEW * usual) & (own[volumes] < FEW * usual)
    if lower_bound(bare.mean(), len(bare)) <= MANY:
        return []
    few = np.flatnonzero(own < FEW * usual)
    names = [evidence.task.train.volumes[number].id for number in few]
    return [
        Finding(
            "sampling.mostly_masked",
            "warning",
            f"{100 * bare.mean():.0f} % of the patches are nearly unlabelled: they lie in "
            f"{listed(names)}, of which "
            f"{100 * own[few].mean():.1f} % is labelled, whereas of other volumes it is "
            f"{100 * usual:.0f} %.",
            {
                "bare_patches": float(bare.mean()),
                "labelled": float(own[few].mean()),
                "labelled_elsewhere": float(usual),
                "volumes": len(names),
            },
            "data.root",
            "Remove these volumes from training, or label more of them.",
        )
    ]


def _islands(evidence, shares):
    """Patches much larger than the labelled parts of the volumes."""
    if shares.mean() + CLEAR * shares.std() / np.sqrt(len(shares)) > FEW:
        return []
    sampler = evidence.task.train
    half = tuple(max(n // 2, 1) for n in sampler.patch)
    smaller = dataclasses.replace(sampler, patch=half)
    drawn = [smaller[number] for number in range(len(shares))]
    samples = {name: [one[name] for one in drawn] for name in ("label", "volume")}
    possible = _labelled_shares(smaller, samples).mean()
    if possible < ISLANDS * shares.mean():
        return []
    return [
        Finding(
            "sampling.mostly_masked",
            "warning",
            f"{100 * shares.mean():.1f} % of the voxels of a patch are labelled; in a patch of "
            f"half the side it would be {100 * possible:.0f} %: the labelled parts are smaller "
            "than the patch.",
            {"labelled": float(shares.mean()), "labelled_of_half": float(possible)},
            "data.patch",
            f"Set data.patch to {half}, or cut the volumes to their labelled parts.",
        )
    ]


def _missed(sampler, number, count, quick):
    """Share of a volume's labelled voxels that `count` patches of a sampler omit.

    Where `count` is more than DRAWS, each voxel's probability of being reached is estimated from as
    many places.
    """
    generator = np.random.default_rng(number)
    voxels = generator.permutation(sampler.fingerprints[number].labelled)[:VOXELS]
    draws = min(count, DRAWS[quick])
    corners = [sampler.draw_place(number, generator) for _ in range(draws)]
    hits = np.zeros(len(voxels), np.int64)
    for corner in corners:
        hits += np.all((voxels >= corner) & (voxels < corner + np.array(sampler.patch)), 1)
    if draws == count:
        return np.mean(hits == 0)
    return np.mean((1 - (hits + 0.5) / (draws + 1)) ** count)


def lower_bound(share, count):
    """Lower end of Wilson's interval (1927) of a share of `count` draws."""
    square = CLEAR**2 / count
    middle = share + square / 2
    spread = CLEAR * np.sqrt((share * (1 - share) + square / 4) / count)
    return (middle - spread) / (1 + square)


def _times(missed):
    """How many times more patches would omit a tenth, if places are independent."""
    return max(2, int(np.ceil(np.log(FEW) / np.log(np.clip(np.mean(missed), 0.01, 0.99)))))


def _spread(count, most):
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most))})


def _size(shape):
    return "×".join(str(int(n)) for n in shape)


def _axes(name, shape):
    return {f"{name}_{axis}": int(n) for axis, n in zip(AXES, shape, strict=True)}


CHECKS = (
    Check(("sampling.no_foreground",), no_foreground, quick=True),
    Check(
        ("sampling.mostly_masked",),
        mostly_masked,
        quick=True,
        not_for={"image": "images have no unlabelled pixels"},
    ),
    Check(
        ("sampling.coverage",),
        coverage,
        quick=True,
        not_for={"image": "every pass reads each image whole"},
    ),
    Check(
        ("sampling.padding",),
        padding,
        quick=True,
        not_for={"image": "images are resized, not padded"},
    ),
)
