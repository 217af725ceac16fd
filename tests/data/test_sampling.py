import numpy as np
import pytest
import tifffile

from jax_seg.data import labels, pipeline
from jax_seg.data.cache import Cache
from jax_seg.data.fingerprint import fingerprint, measure, random_places, read_pair
from jax_seg.data.folder import find_volumes
from jax_seg.data.sampling import PatchSampler, pad_patch, read_patch
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED


class Array:
    """A volume reader over an array in memory."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def read(self, start, size):
        return self.array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]


@pytest.fixture(scope="module")
def sources(volumes_folder, tmp_path_factory):
    volumes = find_volumes(volumes_folder)
    directory = tmp_path_factory.mktemp("cache")
    cache, table = Cache(directory / "volumes", 2**30), labels.label_table()
    return volumes, cache, table, directory


def sampler(sources, **changes):
    volumes, cache, table, directory = sources
    fields = {
        "volumes": volumes,
        "fingerprints": fingerprint(volumes, cache, table, directory / "measured", 2),
        "cache": cache,
        "table": table,
        "patch": (6, 8, 10),
        "patches_per_volume": 2,
        "foreground_share": 0.5,
        "balance_target": 0.0,
        "dtype": np.dtype(np.uint8),
        "seed": 3,
    }
    return PatchSampler(**fields | changes)


def test_fingerprint_counts_and_places(sources):
    volumes, cache, table, _ = sources
    _, label = read_pair(volumes[0], cache, table)
    facts = sampler(sources).fingerprints[0]
    assert facts.shape.tolist() == [20, 20, 20]
    # Two planes of 20 by 15 labelled voxels are foreground, a quarter of the width is unlabelled.
    assert facts.counts.tolist() == [20 * 20 * 15 - 600, 600, 20 * 20 * 5]
    assert len(facts.foreground) == 600
    assert (label[tuple(facts.foreground.T)] == FOREGROUND).all()
    assert (label[tuple(facts.labelled.T)] != MASKED).all()
    assert len(facts.intensities) == 8000


def test_fingerprint_samples_large_volumes_and_repeats_itself():
    image = np.random.default_rng(0).normal(size=(50, 60, 70)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    first, second = measure(image, label), measure(image, label)
    assert len(first.intensities) == 100_000 and len(first.labelled) == 20_000
    assert abs(np.median(first.intensities)) < 0.02
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_places_have_input_where_the_volume_has_any():
    """Labels reach beyond a masked scan, which is zero there."""
    generator = np.random.default_rng(0)
    image = np.zeros((10, 12, 40), np.uint8)
    label = generator.choice([BACKGROUND, FOREGROUND, MASKED], image.shape).astype(np.uint8)
    image[..., :3] = generator.integers(0, 3, (10, 12, 3))
    facts = measure(image, label)
    for places, wanted in (
        (facts.labelled, (image > 0) & (label != MASKED)),
        (facts.foreground, (image > 0) & (label == FOREGROUND)),
    ):
        np.testing.assert_array_equal(places, np.argwhere(wanted))
    assert facts.counts.sum() == label.size  # all voxels are counted
    label[..., :3] = MASKED  # now only nothing is labelled
    facts = measure(image, label)
    np.testing.assert_array_equal(facts.labelled, np.argwhere(label != MASKED))


def test_patches_of_a_masked_scan_have_input(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    image = np.zeros((20, 20, 200), np.uint8)
    image[..., :20] = np.random.default_rng(0).integers(1, 255, (20, 20, 20))
    for part, voxels in (("images", image), ("labels", np.tile(np.uint8([0, 1]), image.size // 2))):
        voxels = voxels.reshape(image.shape)
        tifffile.imwrite(tmp_path / part / "a.tif", voxels, photometric="minisblack")
    volumes, table = find_volumes(tmp_path), labels.label_table()
    cache = Cache(tmp_path / "cache", 2**30)
    patches = sampler((volumes, cache, table, tmp_path), patches_per_volume=60)
    assert all(patches[index]["image"].any() for index in range(60))


def test_places_are_drawn_slice_by_slice_as_from_all_at_once():
    label = np.random.default_rng(1).integers(0, 3, (7, 6, 5)).astype(np.uint8)
    label[3] = 0  # a slice without any
    every = np.flatnonzero(label == 2)
    for count in (1, 10, len(every) - 1, len(every), 1000):
        found = random_places(label, lambda s: s == 2, count, np.random.default_rng(count))
        if count < len(every):
            generator = np.random.default_rng(count)
            every_one = np.sort(generator.choice(every, count, replace=False, shuffle=False))
        else:
            every_one = every
        np.testing.assert_array_equal(found, every_one)
    assert random_places(label, lambda s: s == 9, 5, np.random.default_rng(0)).size == 0


def test_patch_is_cut_from_image_and_label_at_one_place(sources):
    patches = sampler(sources)
    for index in range(12):
        item = patches[index]
        image, label = read_pair(patches.volumes[item["volume"]], *sources[1:3])
        assert item["image"].shape == item["label"].shape == (6, 8, 10, 1)
        windows = np.lib.stride_tricks.sliding_window_view(image, (6, 8, 10))
        places = np.argwhere((windows == item["image"][..., 0]).all((3, 4, 5)))
        assert len(places) == 1
        d, h, w = places[0]
        np.testing.assert_array_equal(
            item["label"][..., 0], label[d : d + 6, h : h + 8, w : w + 10]
        )


@pytest.mark.parametrize("target", [0.0, 0.4])
def test_the_place_of_a_patch_is_known(sources, target):
    patches = sampler(sources, balance_target=target)
    for index in range(12):
        number, corner = patches.place(index)
        item = patches[index]
        image, _ = read_pair(patches.volumes[number], *sources[1:3])
        assert item["volume"] == number
        np.testing.assert_array_equal(
            item["image"][..., 0], read_patch(Array(image), corner, patches.patch, outside="edge")
        )


def test_an_epoch_visits_each_volume_as_often_and_epochs_differ(sources):
    patches = sampler(sources)
    orders = [[int(patches[i + 12 * e]["volume"]) for i in range(12)] for e in range(2)]
    assert all(np.bincount(order).tolist() == [2] * 6 for order in orders)
    assert orders[0] != orders[1]


def test_foreground_share_one_and_zero(sources):
    def holds_foreground(share, seed):
        patches = sampler(sources, foreground_share=share, seed=seed)
        return np.mean([(patches[i]["label"] == 1).any() for i in range(48)])

    assert holds_foreground(1.0, 0) == 1
    assert holds_foreground(0.0, 0) < 0.8


def test_every_patch_holds_a_labelled_voxel(sources):
    patches = sampler(sources, foreground_share=0.0, patch=(2, 2, 2))
    assert all((patches[i]["label"] != MASKED).any() for i in range(60))


def test_balance_target_draws_nearer_to_it(sources):
    def distance(target):
        patches = sampler(sources, balance_target=target, foreground_share=0.5)
        shares = []
        for i in range(48):
            label = patches[i]["label"]
            shares.append((label == 1).sum() / max((label != MASKED).sum(), 1))
        return np.abs(np.array(shares) - 0.3).mean()

    assert distance(0.3) < 0.7 * distance(0.0)


def test_small_volumes_are_padded_and_the_padding_masked(sources):
    item = sampler(sources, patch=(24, 8, 30))[0]
    assert item["image"].shape == (24, 8, 30, 1)
    inside = np.zeros((24, 8, 30), bool)
    inside[2:22, :, 5:25] = True
    assert (item["label"][~inside] == MASKED).all()
    assert (item["label"][inside] != MASKED).any()
    np.testing.assert_array_equal(item["image"][0], item["image"][2])  # the border repeated


def test_read_and_pad_by_hand():
    reader = Array(np.arange(8).reshape(2, 2, 2))
    np.testing.assert_array_equal(
        read_patch(reader, (-1, 0, 1), (2, 2, 2), outside=9),
        [[[9, 9], [9, 9]], [[1, 9], [3, 9]]],
    )
    inside = read_patch(reader, (-1, 0, 1), (2, 2, 2), outside=None)
    np.testing.assert_array_equal(inside, [[[1], [3]]])
    edge = pad_patch(inside, reader.shape, (-1, 0, 1), (2, 2, 2), outside="edge")
    np.testing.assert_array_equal(edge, [[[1, 1], [3, 3]], [[1, 1], [3, 3]]])


@pytest.mark.parametrize("threads", [0, 3])
def test_batches_continue_at_any_patch_with_any_threads(sources, threads):
    patches = sampler(sources)
    whole = list(pipeline.batches(patches, batch=3, start=0, count=6, threads=1))
    rest = list(pipeline.batches(patches, batch=3, start=9, count=3, threads=threads))
    assert len(whole) == 6 and len(rest) == 3
    for a, b in zip(whole[3:], rest, strict=True):
        for name in ("image", "label", "volume"):
            np.testing.assert_array_equal(a[name], b[name])
    assert list(pipeline.batches(patches, batch=3, start=9, count=0, threads=threads)) == []
    with pytest.raises(ValueError, match=r"data\.threads is -1"):
        next(pipeline.batches(patches, batch=3, start=0, count=1, threads=-1))


def test_on_device_keeps_order_and_count():
    source = ({"x": np.full(2, i), "volume": np.array([i])} for i in range(5))
    seen = [(int(arrays["x"][0]), int(v[0])) for arrays, v in pipeline.on_device(source)]
    assert seen == [(i, i) for i in range(5)]
