"""Blocks of a volume are those of the whole, whatever is computed, repeated or lost on the way."""

import json
import math

import numpy as np
import pytest
import tifffile

from jax_seg.data.readers import open_volume
from jax_seg.infer.blocks import records, run
from jax_seg.infer.blocks.cuts import Cuts, levels_of, parse_region
from jax_seg.infer.blocks.job import coarseness, default_block, within_box
from jax_seg.infer.blocks.loaded import Loaded, Task
from jax_seg.infer.blocks.passes import halved
from jax_seg.infer.logits import foreground
from tests.infer.blocks.jobs import CALLS, checksums, compute, load_network, make_job, read

SHAPE = (40, 21, 35)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    volume = np.random.default_rng(0).integers(1, 256, SHAPE).astype(np.uint8)
    volume[:, :, 20:] = 0
    path = tmp_path_factory.mktemp("image") / "v.tif"
    tifffile.imwrite(path, volume, photometric="minisblack")
    return path


@pytest.fixture(scope="module")
def logits(image):
    return np.asarray(load_network()(tifffile.imread(image)))


@pytest.fixture(scope="module")
def finished(image, tmp_path_factory):
    """The image of the mask, undisturbed."""
    output = tmp_path_factory.mktemp("finished") / "v.zarr"
    assert compute(make_job(image, output)) == 0
    return output


def test_a_mask_and_its_pyramid_equal_those_of_the_volume_in_memory(finished, logits):
    mask = np.asarray(foreground(logits, 0.5), np.uint8)
    assert 0.1 < mask.mean() < 0.9
    np.testing.assert_array_equal(read(finished), mask)
    np.testing.assert_array_equal(read(finished, 1), halved(mask, (1,)))
    assert read(finished, 2).shape == (10, 6, 9)
    facts = json.loads(finished.with_suffix(".json").read_text())
    # Along the axes, 3 × 2 × 3 blocks. Windows start at every fourth of 40 voxels, at 0, 3, 6, 10
    # and 13 of 21, and at 0, 4, 8, 12, 15, 19, 23 and 27 of 35.
    along = (4 + 5 + 2), (5 + 2), (5 + 5 + 1)
    assert facts["blocks"] == 18 and facts["windows"] == math.prod(along)
    # From voxel 20 on there is no input: of the last axis, those from 23 and 27, 27 twice.
    assert facts["empty_windows"] == along[0] * along[1] * 3
    assert not (finished.parent / "v.blocks" / "arrays").exists()


@pytest.mark.parametrize("kind", ["uint8", "float16"])
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_probabilities_in_either_version(image, logits, tmp_path, kind, version):
    output = tmp_path / "p.zarr"
    assert compute(make_job(image, output, kind=kind, version=version)) == 0
    probability = 1 / (1 + np.exp(-logits))
    voxels = read(output, driver="zarr3" if version == "0.5" else "zarr")
    assert voxels.dtype == kind
    scale = 255 if kind == "uint8" else 1
    np.testing.assert_allclose(voxels / scale, probability, atol=0.51 / 255)
    np.testing.assert_array_equal(open_volume(output).read((0, 0, 0), SHAPE), voxels)


def test_regions_are_parts_of_the_whole(image, finished, tmp_path):
    """A region of two blocks, then the rest: the files are those of the whole."""
    output, whole = tmp_path / "v.zarr", checksums(finished)
    assert compute(make_job(image, output), region=((0, 0, 10), (5, 5, 10))) == 0
    some = checksums(output)
    levels = {name for name in some if name.startswith("0/c")}
    assert levels == {"0/c/0/0/0", "0/c/0/0/1"}
    assert all(some[name] == whole[name] for name in levels)
    assert compute(make_job(image, output)) == 0
    assert checksums(output) == whole


def test_parts_then_the_rest_give_the_whole(image, finished, tmp_path, capsys):
    output = tmp_path / "v.zarr"
    for part in ((2, 3), (1, 3)):
        assert compute(make_job(image, output), part=part) == 0
        assert f"Part {part[0]}/3 is done" in capsys.readouterr().out
    assert len(list((output / "0" / "c").rglob("*"))) - 3 - 5 < 18
    assert compute(make_job(image, output)) == 0
    assert "The network runs on 6 blocks" in capsys.readouterr().out
    assert checksums(output) == checksums(finished)


def test_parts_leave_what_follows_the_network_to_the_last_command(image, tmp_path, capsys):
    """Components need the blocks of all parts, and so does the pyramid."""
    steps = ("threshold", "remove_small:voxels=40")
    whole = tmp_path / "whole" / "v.zarr"
    whole.parent.mkdir()
    assert compute(make_job(image, whole, steps=steps)) == 0
    output = tmp_path / "v.zarr"
    for part in ((2, 3), (1, 3), (3, 3)):
        capsys.readouterr()
        assert compute(make_job(image, output, steps=steps), part=part) == 0
        printed = capsys.readouterr().out
        assert "6 wanted, 0 done" in printed and "[6/6] network" in printed
        assert "level_" not in printed and "remove_small" not in printed
    assert compute(make_job(image, output, steps=steps)) == 0
    printed = capsys.readouterr().out
    assert "The network runs" not in printed and "remove_small" in printed
    assert checksums(output) == checksums(whole)


def test_what_is_damaged_is_computed_again_and_nothing_else(image, finished, tmp_path, capsys):
    output = tmp_path / "v.zarr"
    compute(make_job(image, output))
    shard = output / "0" / "c" / "1" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-7])
    (output / "0" / "c" / "2" / "1" / "2").unlink()
    records_of = tmp_path / "v.blocks" / "network"
    (records_of / "0.0.1.json").unlink()
    (records_of / "0.1.0.json").write_text('{"settings": "')
    (output / "1" / "c" / "0" / "0" / "0").write_bytes(b"")
    capsys.readouterr()
    assert compute(make_job(image, output)) == 0
    printed = capsys.readouterr().out
    assert "18 wanted, 14 done" in printed and "[4/4] network" in printed
    assert "[1/1] level_1" in printed and "level_2" not in printed
    assert checksums(output) == checksums(finished)
    CALLS.clear()
    assert compute(make_job(image, output)) == 0
    assert "18 wanted, 18 done" in capsys.readouterr().out and not CALLS


def test_a_block_whose_worker_died_after_it_is_not_computed_again(image, tmp_path):
    job = make_job(image, tmp_path / "v.zarr")
    compute(job, region=((0, 0, 0), (1, 1, 1)))
    CALLS.clear()
    task = Task(0, (0, 0, 0), "")
    found = Loaded(job)(task)
    assert found == json.loads((tmp_path / "v.blocks" / "network" / "0.0.0.json").read_text())
    assert not CALLS
    shard = tmp_path / "v.zarr" / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-7])
    assert Loaded(job)(task)["blake2b"] == found["blake2b"] and CALLS["loaded"] == 1


def test_other_settings_and_a_second_writer_are_refused(image, tmp_path):
    output = tmp_path / "v.zarr"
    compute(make_job(image, output), region=((0, 0, 0), (1, 1, 1)))
    other = make_job(image, output, settings={"threshold": 0.7, "digest": "b", "block": 8})
    with pytest.raises(ValueError, match="different --block, checkpoint, threshold: pass --overw"):
        compute(other)
    with (
        records.locked(tmp_path / "v.blocks"),
        pytest.raises(ValueError, match="in use by another process"),
    ):
        compute(make_job(image, output))
    with records.locked(tmp_path / "v.blocks", "1_of_2"):
        for part in (None, (1, 2)):
            with pytest.raises(ValueError, match="in use by another process"):
                compute(make_job(image, output), part=part)
        compute(make_job(image, output), part=(2, 2))
    assert compute(other, overwrite=True) == 0


def test_a_disk_that_fails_leaves_no_block_marked_done(image, tmp_path):
    """The shard of a block cannot be written: the block before is done, it is not."""
    output = tmp_path / "v.zarr"
    compute(make_job(image, output), region=((0, 0, 0), (1, 1, 1)))
    blocked = output / "0" / "c" / "0" / "0" / "1"
    blocked.mkdir(parents=True)
    (blocked / "file").touch()
    with pytest.raises(OSError, match=r"v.zarr.0 could not be written"):
        compute(make_job(image, output), region=((0, 0, 16), (1, 1, 1)))
    done = records.read_all(tmp_path / "v.blocks" / "network", make_job(image, output).digest)
    assert list(done) == [(0, 0, 0)]


def test_a_share_that_vanishes_is_not_written_elsewhere(image, tmp_path):
    output = tmp_path / "v.zarr"
    job = make_job(image, output)
    compute(job, region=((0, 0, 0), (1, 1, 1)))
    (output / "0").rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="is no longer there: mount it again"):
        Loaded(job)(Task(0, (1, 0, 0), ""))
    assert not (output / "0").exists()


def test_a_mask_at_a_coarser_level_limits_what_is_predicted(image, logits, tmp_path, capsys):
    """Half the resolution, an odd voxel rounded up: inside for z < 20, y < 10 and x < 14."""
    mask = np.zeros((20, 11, 18), np.uint8)
    mask[:10, :5, :7] = 3
    tifffile.imwrite(tmp_path / "m.tif", mask, photometric="minisblack")
    within = open_volume(tmp_path / "m.tif")
    output = tmp_path / "v.zarr"
    assert compute(make_job(image, output, within=within)) == 0
    expected = np.asarray(foreground(logits, 0.5), np.uint8)
    expected[20:], expected[:, 10:], expected[:, :, 14:] = 0, 0, 0
    np.testing.assert_array_equal(read(output), expected)
    assert "blocks: 18, without input or outside the mask: 16," in capsys.readouterr().out
    assert within_box(within, SHAPE, (19, 9, 13), (2, 2, 2)).tolist() == [
        [[True, False], [False, False]],
        [[False, False], [False, False]],
    ]
    with pytest.raises(ValueError, match=r"--mask .* has shape \(20, 11, 18\), but the volume"):
        coarseness(within, (40, 21, 30))


def test_blocks_without_input_do_not_run_the_network(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((33, 20, 20), np.uint8), photometric="minisblack")

    def load():
        def segment(part):
            raise AssertionError("run on nothing")

        from functools import partial

        from jax_seg.infer.sliding_window import predict_volume

        return partial(predict_volume, segment, patch=(8, 8, 8))

    assert compute(make_job(tmp_path / "v.tif", tmp_path / "o.zarr", load=load)) == 0
    assert "blocks: 12, without input or outside the mask: 12," in capsys.readouterr().out
    assert not read(tmp_path / "o.zarr").any()


def test_regions_by_hand():
    cuts = Cuts((40, 21, 35), (16, 16, 16))
    assert cuts.counts == (3, 2, 3) and cuts.box((2, 1, 2)) == ((32, 16, 32), (8, 5, 3))
    assert cuts.spans[1] == ((0, 16), (16, 21))
    assert list(cuts.touching((15, 0, 16), (2, 16, 1))) == [(0, 0, 1), (1, 0, 1)]
    assert cuts.around((1, 0, 0), (2, 3, 0)) == ((14, 0, 0), (20, 19, 16))
    assert [level.shape for level in levels_of(cuts)] == [(40, 21, 35), (20, 11, 18), (10, 6, 9)]
    assert parse_region("0:4, :,30:35", cuts.shape) == ((0, 0, 30), (4, 21, 5))
    for text in ("0:4,0:4", "4:2,:,:", "0:41,:,:", "a:b,:,:", "0:0,:,:"):
        with pytest.raises(ValueError, match="--region"):
            parse_region(text, cuts.shape)


def test_half_the_resolution_by_hand():
    voxels = np.array([[[0, 0, 200]], [[4, 1, 100]], [[9, 9, 9]]], np.uint8)
    # Of 0, 0, 4 and 1 (each twice along the row of one voxel) the later of the values stays.
    assert halved(voxels, (1, 4, 9, 100, 200)).tolist() == [[[4, 200]], [[9, 9]]]
    assert halved(voxels, (9, 200, 100, 4, 1)).tolist() == [[[1, 100]], [[9, 9]]]
    most = np.array([[[5, 5], [0, 3]], [[0, 3], [0, 3]]], np.int16)
    assert halved(most, (3, 5)).tolist() == [[[3]]] and halved(most, (3, 5)).dtype == np.int16
    # (0 + 0 + 4 + 1) / 4 is 1.25, (200 + 100) / 2 is 150.
    assert halved(voxels).tolist() == [[[1, 150]], [[9, 9]]]
    assert halved(np.ones((1, 1, 2), np.float16)).dtype == np.float16


def test_words():
    assert run.duration(5) == "5 s" and run.duration(600) == "10 min"
    assert run.duration(7200) == "2.0 h" and run.gigabytes(2**30) == "1 GiB"


def test_the_default_block_is_four_windows_within_memory():
    # Twice the sums of 640³ voxels take 2.0 GiB, of 384³ voxels of three classes 1.3 GiB.
    assert default_block([(32, 48, 48), (96, 96, 64)]) == 384
    assert default_block([(16, 16, 16)]) == 256
    assert default_block([(20, 320, 256)]) == 640
    assert default_block([(20, 320, 256)], classes=3) == 384
