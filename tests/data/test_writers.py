"""TIFF stacks: what they hold, and that they are BigTIFF where a classic one may not suffice."""

import numpy as np
import pytest
import tifffile

from jax_seg.data import writers
from jax_seg.data.readers import open_volume


@pytest.mark.parametrize("compression", ["lzw", "zlib"])
def test_a_big_tiff_by_size_and_whatever_the_compression(tmp_path, monkeypatch, compression):
    assert writers.CLASSIC_BYTES < 2**32
    volume = np.arange(3 * 8 * 8, dtype=np.float16).reshape(3, 8, 8)
    monkeypatch.setattr(writers, "CLASSIC_BYTES", volume.nbytes)
    for voxels, big in ((volume, False), (volume.repeat(2, axis=0), True)):
        path = tmp_path / f"{big}.tif"
        writers.write_tiff(path, voxels, compression=compression, origin="us")
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_bigtiff == big and tiff.pages[0].software == "us"
        reader = open_volume(path)
        np.testing.assert_array_equal(reader.read((0, 0, 0), reader.shape), voxels)
