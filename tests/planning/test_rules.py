"""The rules of a plan, by hand: each on facts of which one thing is unusual."""

import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jax_seg import models
from jax_seg.planning import geometry, rules
from jax_seg.planning.facts import Facts, Labels
from jax_seg.planning.machine import Machine, machine
from jax_seg.system import cards

SCROLLS = Facts(
    shapes=np.full((8, 3), 96),
    dtype="uint8",
    groups=4,
    spacing=None,
    spacings_differ=False,
    anisotropy=1.0,
    values={0: 0.4, 1: 0.1, 2: 0.5},
    labels=Labels((0,), (1,), (2,), "as given"),
    foreground=0.2,
    unlabelled=0.5,
    thickness=2.0,
    pieces=5.0,
    largest=0.5,
    cropped=False,
    range_ratio=1.1,
    zeros=0.0,
)
MEMBRANES = SCROLLS._replace(shapes=np.array([[20, 256, 256]] * 12), anisotropy=9.8)
HIPPOCAMPUS = SCROLLS._replace(shapes=np.array([[35, 51, 35]] * 60), groups=60, range_ratio=20.0)
SMALL = geometry.CPU_VOXELS
LAPTOP = Machine("2 CPU cores", 16 * 2**30, dict.fromkeys(rules.WIDTHS, 100e9))
CARD = Machine("H100", 80 * 2**30, None, cards.CARDS["h100"])


@pytest.mark.parametrize(
    "facts, voxels, patch, poolings, planar",
    [
        (SCROLLS, SMALL, (48, 48, 48), 2, 0),  # as configs/demo.py
        (MEMBRANES, SMALL, (16, 96, 96), 3, 2),  # as configs/membrane.py
        (HIPPOCAMPUS, SMALL, (32, 48, 32), 2, 0),
        (SCROLLS._replace(shapes=np.full((8, 3), 500)), geometry.GPU_VOXELS, (128, 128, 128), 4, 0),
        # In slices four times as far apart the patch is a quarter as deep: s³/4 = 128³, s = 203.
        (
            SCROLLS._replace(shapes=np.full((8, 3), 500), anisotropy=4),
            geometry.GPU_VOXELS,
            (48, 192, 192),
            4,
            2,
        ),
        (SCROLLS._replace(shapes=np.array([[5, 40, 40]])), SMALL, (8, 32, 32), 2, 0),
        (SCROLLS._replace(shapes=np.full((1, 3), 500), anisotropy=64), SMALL, (16, 80, 80), 3, 2),
    ],
)
def test_the_patch_fits_the_volumes_and_the_device(facts, voxels, patch, poolings, planar):
    chosen = geometry.patch_and_levels(facts, voxels).fields
    assert chosen == {
        "data.patch": patch,
        "model.poolings": poolings,
        "model.planar_levels": planar,
    }
    for axis, size in enumerate(patch):  # every level divides
        pooled = poolings - planar if axis == 0 else poolings
        assert size % 2**pooled == 0


def test_the_levels_follow_a_patch_that_the_user_has_set():
    def levels(facts, *patch):
        chosen = geometry.patch_and_levels(facts, SMALL, {"data.patch": patch}).fields
        assert chosen["data.patch"] == patch
        return chosen["model.poolings"], chosen["model.planar_levels"]

    assert levels(SCROLLS, 64, 64, 64) == (3, 0)
    assert levels(SCROLLS, 64, 64, 36) == (2, 0)  # 36 divides by 4
    assert levels(MEMBRANES, 10, 64, 64) == (3, 2)
    assert levels(MEMBRANES, 9, 31, 31) == (1, 0)


def test_a_patch_without_equal_axes_is_not_turned_by_quarters():
    # 20×60×100 voxels make a patch of 16×48×96; slices apart leave height and width alone.
    unlike = SCROLLS._replace(shapes=np.array([[20, 60, 100]]))
    assert geometry.patch_and_levels(unlike, SMALL).fields["augment.rotate90"] == 0
    for patch, anisotropy, turned in (
        ((32, 48, 32), 1.0, True),
        ((32, 48, 32), 4.0, False),
        ((32, 48, 48), 4.0, True),
    ):
        facts, given = SCROLLS._replace(anisotropy=anisotropy), {"data.patch": patch}
        assert (
            "augment.rotate90" not in geometry.patch_and_levels(facts, SMALL, given).fields
        ) == turned
    given = {"data.patch": (32, 48, 32), "augment.in_plane_only": True}
    assert geometry.patch_and_levels(SCROLLS, SMALL, given).fields["augment.rotate90"] == 0


def test_a_patch_has_room_for_the_poolings_that_the_user_has_set():
    big = SCROLLS._replace(shapes=np.full((8, 3), 500))
    chosen = geometry.patch_and_levels(big, SMALL, {"model.poolings": 5}).fields
    assert chosen["model.poolings"] == 5 and chosen["data.patch"] == (32, 32, 32)
    flat = big._replace(anisotropy=4.0)  # two levels within slices leave three along depth
    chosen = geometry.patch_and_levels(flat, SMALL, {"model.poolings": 5}).fields
    assert chosen["model.planar_levels"] == 2 and chosen["data.patch"][0] % 8 == 0
    assert all(size % 32 == 0 for size in chosen["data.patch"][1:])


def test_operations_are_those_of_the_convolutions():
    # One pooling, 2 filters, 4³ voxels. Above: 1→2, 2→2, and 4→2, 2→2 on the way up; below: 2→4
    # and 4→4 on an eighth of the voxels.
    above = 64 * 27 * (1 * 2 + 2 * 2 + 4 * 2 + 2 * 2)
    below = 8 * 27 * (2 * 4 + 4 * 4)
    assert rules.operations((4, 4, 4), 1, 2, 1, 0) == 3 * 2 * (above + below)
    planar = 3 * 2 * (64 * 9 * 18 + 16 * 27 * 24)  # within slices, a quarter of the voxels
    assert rules.operations((4, 4, 4), 1, 2, 1, 1) == planar


def test_the_time_decides_how_wide_the_network_is():
    chosen = geometry.patch_and_levels(MEMBRANES, SMALL).fields
    seconds = rules.operations((16, 96, 96), 2, 16, 3, 2) / 100e9
    assert 0.5 < seconds < 1.5
    minutes = rules.ENOUGH * seconds / 60
    found, updates = rules.width(LAPTOP, chosen, minutes * 1.01)
    assert found.fields == {"model.filters": 16, "data.batch": 2}
    assert updates == pytest.approx(rules.ENOUGH * 1.01)
    assert rules.width(LAPTOP, chosen, minutes * 0.9)[0].fields["model.filters"] == 8
    assert rules.width(LAPTOP, chosen, minutes * 10)[0].fields["model.filters"] == 32
    assert rules.width(LAPTOP, chosen, minutes / 100)[0].fields["model.filters"] == 8
    assert rules.width(CARD, chosen, minutes)[0].fields == {"model.filters": 32}


def test_the_width_says_what_limits_it():
    chosen = geometry.patch_and_levels(MEMBRANES, SMALL).fields
    minutes = rules.ENOUGH * rules.operations((16, 96, 96), 2, 16, 3, 2) / 100e9 / 60

    def reason(minutes, machine=LAPTOP):
        return rules.width(machine, chosen, minutes)[0].reason

    assert reason(100).endswith("updates") and "with 32 filters" in reason(100)
    assert "a batch of 2 (a larger one would make fewer updates) an update" in reason(100)
    said = reason(minutes * 1.01)
    assert "about 400 updates; a wider network would make fewer than 400" in said
    assert reason(minutes / 100).endswith("give the run more minutes")
    assert "wider network would not fit into memory" in reason(1e6, LAPTOP._replace(memory=2**29))
    assert reason(1e6, LAPTOP._replace(memory=2**20)).endswith("set a smaller data.patch")


def test_an_update_is_that_of_the_network_that_the_user_has_set():
    chosen = geometry.patch_and_levels(MEMBRANES, SMALL).fields | {
        "model.filters": 20,
        "data.batch": 4,
    }
    _, updates = rules.width(LAPTOP, chosen, 10)
    seconds = rules.operations((16, 96, 96), 4, 20, 3, 2) / 100e9
    assert updates == pytest.approx(600 / seconds)


def test_a_small_memory_makes_it_narrower():
    chosen, small = geometry.patch_and_levels(SCROLLS, SMALL).fields, LAPTOP._replace(memory=2**30)
    held = rules.KEPT_BYTES * 2 * 48**3  # per filter
    widest = 2**30 / 2 / held
    filters = rules.width(small, chosen, 1e6)[0].fields["model.filters"]
    assert filters == max(w for w in rules.WIDTHS if w <= widest)


def test_scanners_that_differ_are_normalised_each():
    assert rules.preprocessing(SCROLLS).fields == {"preprocess.name": "zscore"}
    assert (
        "a factor of 3,195, so each"
        in rules.preprocessing(HIPPOCAMPUS._replace(range_ratio=3195.4)).reason
    )
    tomography = rules.preprocessing(HIPPOCAMPUS._replace(channels=("CT",)))
    assert tomography.fields == {"preprocess.name": "zscore"} and "says CT" in tomography.reason
    of_both = HIPPOCAMPUS._replace(channels=("CT", "PET"))
    assert rules.preprocessing(of_both).fields["preprocess.per_volume"]
    chosen = rules.preprocessing(HIPPOCAMPUS).fields
    assert chosen["preprocess.per_volume"] and chosen["preprocess.region"] == "all"
    masked = rules.preprocessing(HIPPOCAMPUS._replace(zeros=0.5)).fields
    assert masked["preprocess.region"] == "box"


def test_augmentation_follows_intensities_and_spacing():
    assert rules.augmentation(SCROLLS).fields["augment.noise"] == 0
    assert "augment.noise" not in rules.augmentation(HIPPOCAMPUS).fields
    assert rules.augmentation(MEMBRANES).fields["augment.in_plane_only"]


def test_an_axis_that_is_not_like_the_others_is_not_turned():
    fine = rules.augmentation(SCROLLS._replace(anisotropy=0.2, spacing=(1.0, 5.0, 5.0)))
    assert fine.fields["augment.in_plane_only"] and "depth is finer" in fine.reason
    assert "augment.rotate90" not in fine.fields
    oblong = rules.augmentation(SCROLLS._replace(anisotropy=1 / 3, spacing=(1.0, 1.0, 5.0)))
    assert oblong.fields["augment.rotate90"] == oblong.fields["augment.rotate"] == 0
    assert "whose first axis is the coarse one" in oblong.reason


def test_the_normalisation_that_is_set_is_kept():
    assert rules.preprocessing(HIPPOCAMPUS, False).fields == {"preprocess.name": "zscore"}
    assert rules.preprocessing(SCROLLS, True) is None


def test_what_can_be_held_out_is():
    assert rules.validation(SCROLLS).fields["data.folds"] == 4
    assert rules.validation(HIPPOCAMPUS).fields["data.folds"] == 5
    one = rules.validation(SCROLLS._replace(shapes=np.full((1, 3), 96), groups=1))
    assert one.fields["data.fold"] == "none" and "training part" in one.reason
    assert rules.validation(SCROLLS).fields["validate.patches_per_volume"] == 4  # of two volumes


@pytest.mark.parametrize(
    "axis, patch, kernel, coarsest",
    [
        (2, (80, 80, 16), (3, 3, 1), "10×10×8; a step along width equals 6.0 in the plane across"),
        (1, (80, 16, 80), (3, 1, 3), "10×8×10; a step along height equals 6.0 in the plane across"),
    ],
)
def test_slices_lie_across_the_axis_whose_steps_are_longest(axis, patch, kernel, coarsest):
    shape, spacing = np.full(3, 512), np.full(3, 0.5)
    shape[axis], spacing[axis] = 24, 3.0
    sagittal = SCROLLS._replace(shapes=shape[None], spacing=tuple(spacing), anisotropy=0.3)
    chosen = geometry.patch_and_levels(sagittal, SMALL)
    fields, stride = chosen.fields, tuple(2 if size == 3 else 1 for size in kernel)
    assert fields["data.patch"] == patch and coarsest in chosen.reason
    assert fields["model.kernels"] == (kernel, kernel, (3, 3, 3), (3, 3, 3))
    assert fields["model.strides"] == ((1, 1, 1), stride, stride, (2, 2, 2))
    assert fields["model.planar_levels"] == 0  # whatever a configuration that is changed has
    model = {name.removeprefix("model."): value for name, value in fields.items()}
    network = models.build(
        "unet", filters=4, **{n: model[n] for n in ("poolings", "kernels", "strides")}
    )
    assert np.all(np.array(patch) % network.smallest_input() == 0)
    # The same volumes with that axis first take the same time.
    first = SCROLLS._replace(shapes=np.array([[24, 512, 512]]), anisotropy=6.0)
    each = [geometry.patch_and_levels(facts, SMALL).fields for facts in (sagittal, first)]
    assert rules.width(LAPTOP, each[0], 8) == rules.width(LAPTOP, each[1], 8)
    # Levels that are given have no coarse axis.
    own = geometry.patch_and_levels(sagittal, SMALL, {"model.planar_levels": 0}).fields
    assert "model.kernels" not in own and own["model.planar_levels"] == 0


def test_rare_foreground_is_looked_for():
    assert rules.sampling(SCROLLS) is None
    assert rules.sampling(SCROLLS._replace(foreground=0.01)).fields["data.foreground_share"] == 0.5


def test_poolings_losses_and_schedules_have_reasons():
    assert geometry.patch_and_levels(SCROLLS, SMALL).reason.endswith("coarsest level has 12×12×12")
    assert "the coarsest level has 8×12×12" in geometry.patch_and_levels(MEMBRANES, SMALL).reason
    assert "cross entropy" in rules.loss().reason and "Muon" in rules.optimizer().reason
    said = rules.schedule(8, 500).reason
    assert said.startswith("8 epochs and one cosine schedule fill 8 minutes")
    assert "0.003 is the rate with which Muon learned membranes" in said
    assert said.endswith("the last 100 updates")
    assert rules.schedule(600, 1e5).reason.endswith("the last 1,000 updates")
    assert rules.optimizer({"optimizer.name": "sgd"}) is None
    with_sgd = rules.schedule(8, 500, {"optimizer.name": "sgd", "plateau.patience": 9})
    assert "schedule.learning_rate" not in with_sgd.fields and "rollbacks" not in with_sgd.reason
    assert "where nothing else" in rules.loss({"loss.weights.skeleton_recall": 1.0}).reason
    own = {"train.epochs": 3, "schedule.name": "constant", "average.ema_decay": 0.0}
    own["schedule.learning_rate"] = 0.1
    said = rules.schedule(8, 500, own).reason
    assert said == "3 epochs and one constant schedule fill 8 minutes, without rollbacks"


def test_the_schedule_fits_the_time():
    short, long = (rules.schedule(m, u).fields for m, u in ((8, 500), (600, 1e5)))
    assert short["train.epochs"] == 8 and long["train.epochs"] == 100
    assert short["average.ema_decay"] < long["average.ema_decay"]
    assert rules.schedule(60, None).fields["average.ema_decay"] == long["average.ema_decay"]
    assert rules.schedule(0.5, 10).fields["train.epochs"] == rules.EPOCHS[0]


def test_devices_have_names():
    assert machine("h100").card is cards.CARDS["h100"] and machine("h100").is_gpu
    assert machine("24 GB").memory == int(24e9 * 0.75)
    assert machine("24GiB").memory == int(24 * 2**30 * 0.75)
    for wrong in ("h1000", "0 GB", "24"):
        with pytest.raises(ValueError, match="There is no device"):
            machine(wrong)


def test_this_machine_has_a_rate(monkeypatch):
    card = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 5})
    monkeypatch.setattr(jax, "local_devices", lambda: [card])  # which is not what is asked for
    here = machine("cpu")
    assert here.memory > 2**30
    assert not here.is_gpu and math.isfinite(here.memory)
    assert all(0 < rate < 1e14 for rate in here.rates.values())
