"""Post-processing block by block equals that of the whole volume, voxel by voxel."""

import functools

import jax
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jax_seg.infer import postprocess
from jax_seg.infer.blocks import components, passes, states
from jax_seg.infer.blocks.cuts import Cuts
from jax_seg.infer.postprocess import by_class
from jax_seg.ops.classes import Classes, painted
from tests.infer.blocks.jobs import compute, load_logits, make_job, read

SHAPE = (35, 18, 33)


def smooth_noise(seed, shape=SHAPE):
    """Probabilities with blobs, sheets, holes and specks, some of them across blocks."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=shape), (0.6, 1.2, 1.2))
    return 1 / (1 + np.exp(-3 * noise / noise.std()))


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """An image, and logits that a network would give."""
    folder = tmp_path_factory.mktemp("volume")
    image = (smooth_noise(1) * 200).astype(np.uint8)
    image[:, 4:9, 5:30] = 0
    tifffile.imwrite(folder / "v.tif", image, photometric="minisblack")
    probability = smooth_noise(2)
    logits = np.log(probability / (1 - probability)).astype(np.float32)
    np.save(folder / "logits.npy", logits)
    return folder / "v.tif", image, logits


@pytest.mark.parametrize(
    "steps",
    [
        ("threshold:value=0.7", "remove_small:voxels=20,connectivity=6"),
        ("threshold:value=0.8", "keep_largest:components=3"),
        ("fill_holes:connectivity=18", "close:depth=2,height=1,width=1", "open:depth=0"),
        ("hysteresis:low=0.6,high=0.97", "close", "plug_holes", "fill_holes:voxels=9"),
        ("mask_empty:level=0,voxels=200", "remove_small:voxels=40"),
    ],
)
def test_steps_equal_those_of_the_whole_volume(volume, tmp_path, steps):
    path, image, logits = volume
    output = tmp_path / "o.zarr"
    load = functools.partial(load_logits, path.parent / "logits.npy")
    assert compute(make_job(path, output, load=load, steps=steps), grids=[]) == 0
    expected = postprocess.apply(np.asarray(jax.nn.sigmoid(logits)), image, steps)
    before = postprocess.apply(np.asarray(jax.nn.sigmoid(logits)), image, steps[:1])
    assert 0 < expected.sum() < expected.size
    assert len(steps) == 1 or (before != expected).any()
    np.testing.assert_array_equal(read(output), expected)
    assert sorted(p.name for p in (tmp_path / "o.blocks").iterdir() if p.name == "arrays") == []


SHARED = Classes(("one", "any"), ((1,), (1, 2)), (1, 2))
APART = Classes(("one", "two", "three"), ((1,), (2,), (3,)), (7, 300, 2))


@pytest.mark.parametrize("classes", [APART, SHARED], ids=["exclusive", "overlapping"])
@pytest.mark.parametrize(
    "steps",
    [
        ("threshold:value=0.5",),
        ("threshold:value=0.5", "close:depth=1,height=1,width=1", "remove_small:voxels=9"),
        ("hysteresis:low=0.3,high=0.6", "fill_holes", "keep_largest:components=2"),
    ],
)
def test_several_classes_equal_those_of_the_whole_volume(volume, tmp_path, classes, steps):
    path, image, _ = volume
    numbers = range(3, 3 + len(classes.names))
    logits = np.stack([np.log(smooth_noise(n) / (1 - smooth_noise(n))) for n in numbers], -1)
    logits = logits.astype(np.float32)
    np.save(tmp_path / "logits.npy", logits)
    load = functools.partial(load_logits, tmp_path / "logits.npy")
    job = make_job(path, tmp_path / "o.zarr", load=load, steps=steps, classes=classes)
    assert compute(job, grids=[]) == 0
    found = by_class.apply(logits, image, steps, classes)
    expected = painted(found, classes.values)
    assert set(np.unique(expected)) == {0, *classes.values}
    result = read(tmp_path / "o.zarr")
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == (np.uint16 if classes is APART else np.uint8)
    assert set(np.unique(read(tmp_path / "o.zarr", 1))) <= {0, *classes.values}


def test_states_by_hand():
    """Two classes that exclude each other: what one had before is not the other's later."""
    classes = Classes(("a", "b"), ((1,), (2,)), (1, 2))
    logits = np.array([[3.0, 1.0], [-1.0, 2.0], [-2.0, -2.0]], np.float32)
    found = states.of_logits(logits, ("threshold:value=0.5",), None, classes)
    # FOUND and BEFORE, 1 + 4, of the first class, and eight times that of the second.
    assert found.tolist() == [5, 40, 0] and found.dtype == np.uint8
    # A step makes all voxels those of the first class: it gets the last one, and keeps its own.
    grown = states.replaced(found, {0: np.ones(3, bool)})
    assert states.as_labels(grown, classes).tolist() == [1, 2, 1]
    many = Classes(tuple(map(str, range(22))), tuple((n,) for n in range(1, 23)), range(1, 23))
    with pytest.raises(ValueError, match="have 22 classes, and block by block 21 are the most"):
        states.require_few(many)


def test_a_pass_resumes_where_it_was(volume, tmp_path, capsys):
    """Without one shard of the result, what led to it is made again; then nothing is."""
    path, _, _ = volume
    output = tmp_path / "o.zarr"
    load = functools.partial(load_logits, path.parent / "logits.npy")
    job = make_job(path, output, load=load, steps=("close", "plug_holes"))
    compute(job, grids=[])
    wanted = read(output)
    (output / "0" / "c" / "0" / "0" / "0").unlink()
    capsys.readouterr()
    compute(job, grids=[])
    printed = capsys.readouterr().out
    # The halo of 4 voxels of the block (0, 0, 0) touches the first two blocks along each axis.
    assert "[8/8] network" in printed and "[1/1] 1_close_plug_holes" in printed
    assert "level" not in printed.replace("full resolution", "")
    np.testing.assert_array_equal(read(output), wanted)
    compute(job, grids=[])
    assert "Computing" not in capsys.readouterr().out


@settings(max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.2, 0.4, 0.6]),
    connectivity=st.sampled_from([6, 18, 26]),
    name=st.sampled_from(["remove_small", "keep_largest", "fill_holes"]),
)
def test_components_of_random_voxels_merge_over_blocks(
    tmp_path_factory, shape, seed, share, connectivity, name
):
    """In blocks of 3³ nearly every component crosses faces, edges or corners."""
    mask = np.random.default_rng(seed).random(shape) < share
    cuts = Cuts(shape, (3, 3, 3))
    indices = list(cuts.touching((0, 0, 0), shape))
    parameters = postprocess.defaults(name) | {"connectivity": connectivity}
    parameters |= {"voxels": 4} if "voxels" in parameters else {"components": 2}
    folder = tmp_path_factory.mktemp("merge")
    labels, decisions = (components.Files(str(folder / part)) for part in ("label", "merge"))

    def part(start, size):
        voxels = mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
        return (~voxels if name == "fill_holes" else voxels), None

    reading = part, connectivity
    for index in indices:
        labels.write(index, **components.label_block(cuts, index, reading))
    components.decide(cuts, labels, decisions, indices, name, parameters)
    found = np.zeros(shape, bool)
    for index in indices:
        start, size = cuts.box(index)
        here = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        component = components._label(cuts, index, reading)[0][tuple(map(slice, size))]
        chosen = decisions.read(index)["chosen"][component]
        found[here] = components.combine(name, mask[here], chosen)
    expected = postprocess.apply_step(mask, name, parameters, None, None)
    np.testing.assert_array_equal(found, expected)


def test_steps_that_cannot_be_cut_are_refused_by_name():
    for step in passes.REFUSED:
        with pytest.raises(ValueError, match=f"The step '{step}' looks at the whole volume"):
            passes.require_known((step,), whole=True)
    passes.require_known(("close", "remove_small"), whole=True)
    with pytest.raises(ValueError, match="The step 'remove_small' needs the whole volume"):
        passes.require_known(("close", "remove_small"), whole=False)
    known = {*passes.REFUSED, *passes.LOCAL, *components.STEPS, "threshold"}
    assert known == set(postprocess.STEPS)
