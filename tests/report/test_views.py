"""Pictures of volumes: slices as tiles of sheets, and which volumes are shown."""

import base64
import re

import imagecodecs
import numpy as np
import pytest
import tifffile

from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED
from jax_seg.report import sprites, views
from jax_seg.runs import run as opened
from tests.report_runs import altered, make_run, make_run_of_classes


def test_without_its_images_the_probabilities_are_shown(tmp_path, data):
    run = make_run(tmp_path / "run", data, change=lambda c: c.data.update(root="/nowhere"))
    found, problems = views.views(opened.read_runs([run]))
    assert [v["probability"] for v in found["volumes"]] == [True] * 3
    assert not any(v["labelled"] for v in found["volumes"])
    assert problems == []


def decoded(address):
    kind, code = re.fullmatch(r"data:image/(\w+);base64,(.+)", address).groups()
    decode = imagecodecs.webp_decode if kind == "webp" else imagecodecs.jpeg8_decode
    return decode(base64.b64decode(code))


def cut(sheet, layout, axis, number):
    row, column = divmod(number, layout["columns"])
    (tall, wide), (height, width) = layout["pitch"][axis], layout["tiles"][axis]
    return sheet[row * tall :, column * wide :][:height, :width]


def test_tiles_give_the_slices_back():
    generator = np.random.default_rng(0)
    shape = (5, 12, 20)
    probability = generator.uniform(size=shape).astype(np.float16)
    probability[0, 0, :3] = (0.25, 0.5, 0.75)  # not above a threshold that they equal
    kind = generator.integers(0, 3, shape)
    label = np.array([BACKGROUND, FOREGROUND, MASKED], np.uint8)[kind]
    thresholds = (0.25, 0.5, 0.75)
    slices = sprites.choose_slices(shape, 10**6)
    layout = sprites.layout(shape, slices)
    assert [len(positions) for positions in layout["positions"]] == list(shape)
    both = zip(sprites.stacks(label, slices), sprites.stacks(probability, slices), strict=True)
    for axis, stacks in enumerate(both):
        address = sprites.address(sprites.classes(*stacks, thresholds), lossless=True)
        sheet = decoded(address)[..., 0] / sprites.STEP
        for number in range(shape[axis]):
            seen = cut(sheet, layout, axis, number)
            np.testing.assert_array_equal(seen % 3, np.take(kind, number, axis))
            for level, threshold in enumerate(thresholds):
                above = np.take(probability, number, axis).astype(np.float64) > threshold
                np.testing.assert_array_equal(seen // 3 > level, above)
    image = np.broadcast_to(10.0 * np.arange(20), shape)
    grey = sprites.grey(sprites.stacks(image, slices)[1], *sprites.contrast(image))
    seen = cut(decoded(sprites.address(grey, lossless=False)), layout, 1, 11).astype(float)
    np.testing.assert_allclose(seen, np.broadcast_to(255 / 190 * image[0, 0], (5, 20)), atol=12)


def test_several_classes_are_told_apart_in_a_tile():
    generator = np.random.default_rng(0)
    label = generator.choice(np.array([0, 1, 2, sprites.MOST_CLASSES, MASKED], np.uint8), (3, 9, 7))
    predicted = generator.choice(np.array([0, 1, 2, sprites.MOST_CLASSES], np.uint8), (3, 9, 7))
    slices = sprites.choose_slices(label.shape, 10**6)
    stacks = (sprites.stacks(volume, slices)[0] for volume in (label, predicted))
    sheet = decoded(sprites.address(sprites.numbered(*stacks), lossless=True)) / sprites.STEP
    layout = sprites.layout(label.shape, slices)
    for number in range(3):
        seen = cut(sheet, layout, 0, number)
        masked = sprites.MOST_CLASSES + 1
        np.testing.assert_array_equal(seen[..., 0], np.minimum(label[number], masked))
        np.testing.assert_array_equal(seen[..., 1], predicted[number])


def test_classes_are_shown_where_their_masks_are_kept(tmp_path, data):
    path, volumes = make_run_of_classes(tmp_path / "run", data)
    (run,) = opened.read_runs([path])
    shown = views.views([run])[0]["volumes"][0]
    assert [one["name"] for one in shown["runs"][0]["names"]] == ["sheet", "crust"]
    assert "pooled. The prediction is shown after post-processing" in shown["runs"][0]["scores"]
    for found, expected in zip(
        opened.read_classes(run, shown["id"]), volumes[shown["id"]], strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    sheet = decoded(shown["runs"][0]["classes"][0]) / sprites.STEP
    np.testing.assert_array_equal(cut(sheet, shown, 0, 4)[..., 1], volumes[shown["id"]][1][4])


def test_classes_without_masks_are_shown_as_one_beside_a_run_that_has_them(tmp_path, data):
    paths = [make_run_of_classes(tmp_path / name, data)[0] for name in "ab"]
    for path in (paths[1] / "validation" / "masks").glob("*.tif"):
        path.unlink()
    for volume in views.views(opened.read_runs(paths))[0]["volumes"]:
        apart, together = volume["runs"]
        assert len(apart["names"]) == 2 and together["names"] == []
        assert together["scores"].endswith("All classes are shown as one.")


def test_a_mask_that_is_damaged_or_of_another_shape_is_a_problem_not_an_error(tmp_path, data):
    path, _ = make_run_of_classes(tmp_path / "run", data)
    (path / "validation" / "masks" / "v1.tif").write_bytes(b"II*")
    tifffile.imwrite(
        path / "validation" / "masks" / "v2.tif",
        np.zeros((4, 20, 20), np.uint8),
        photometric="minisblack",
    )
    found, problems = views.views(opened.read_runs([path]))
    assert len(found["volumes"]) == 1 and len(problems) == 2
    assert any("v1.tif" in one for one in problems) and any("(4, 20, 20)" in p for p in problems)


def test_too_many_thresholds_are_refused():
    with pytest.raises(ValueError, match="28 thresholds"):
        sprites.classes(None, np.zeros((1, 1, 1)), np.linspace(0, 1, 28))


def test_slices_fit_the_pixels_and_reach_both_ends():
    for shape, pixels in (((320, 320, 320), 5e6), ((20, 1024, 1024), 3e6), ((64, 64, 64), 1e6)):
        slices = sprites.choose_slices(shape, pixels)
        layout = sprites.layout(shape, slices)
        used = sum(len(p) * np.prod(tile) for p, tile in zip(slices, layout["tiles"], strict=True))
        assert 0.7 * min(pixels, 3 * np.prod(shape)) < used <= pixels
        assert all(p[0] == 0 and p[-1] == n - 1 for p, n in zip(slices, shape, strict=True))
    assert sprites.in_plane_stride((20, 1024, 1024)) == 2
    assert sprites.choose_slices((320, 320, 320), 1e5)[1].tolist() == [160]


def test_first_slice_holds_most_within_the_middle_half():
    mask = np.zeros((8, 8, 8), bool)
    mask[0], mask[3, :2] = True, True
    slices = [np.arange(8)] * 3
    assert sprites.fullest(mask, slices)[0] == 3


def test_the_note_mentions_stretched_slices():
    def note(*shape):
        layout = sprites.layout(shape, sprites.choose_slices(shape, 10**9))
        return views._note({"shape": list(shape), "probability": False, **layout})

    assert note(20, 101, 101) == "20 × 101 × 101 voxels; flat slices are stretched in height."
    assert note(20, 100, 100) == "20 × 100 × 100 voxels."


def test_worst_median_and_best_are_chosen(runs):
    order = sorted(runs[0].volumes, key=lambda name: runs[0].volumes[name]["dice"])
    expected = list(zip(order, ("worst", "median", "best"), strict=True))
    assert views.choose(runs[:1]) == expected
    two = {name: runs[0].probabilities[name] for name in order[:2]}
    assert views.choose([altered(runs[0], probabilities=two)]) == [
        (order[0], "worst"),
        (order[1], "best"),
    ]
    unscored = altered(runs[0], volumes={})
    assert views.choose([unscored]) == [("v0", ""), ("v1", ""), ("v2", "")]


def test_pictures_stay_below_the_limit(runs):
    everything, _ = views.views(runs)
    assert sum(map(views._characters, everything["volumes"])) > 60_000
    assert len(views.views(runs, characters=1)[0]["volumes"][0]["positions"][0]) == 1
    fewer, _ = views.views(runs, characters=60_000)
    assert sum(map(views._characters, fewer["volumes"])) <= 60_000
    assert "slices along the three axes are shown" in fewer["volumes"][0]["note"]


def test_a_prediction_of_another_shape_is_reported(tmp_path, data):
    run = make_run(tmp_path / "run", data)
    path = run / "validation" / "probabilities" / "v1.tif"
    tifffile.imwrite(path, np.zeros((4, 20, 20), np.float16), photometric="minisblack")
    found, problems = views.views(opened.read_runs([run]))
    assert [v["id"] for v in found["volumes"]] != [] and len(found["volumes"]) == 2
    assert len(problems) == 1 and "(4, 20, 20)" in problems[0] and str(path) in problems[0]
