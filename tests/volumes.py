"""Small volumes, and what every reader of one must do."""

import pickle

import numpy as np

from jax_seg.data.readers import open_volume


def make_voxels(dtype=np.uint8, shape=(6, 20, 24)):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def check_reader(path, voxels):
    reader = pickle.loads(pickle.dumps(open_volume(str(path))))
    assert reader.shape == voxels.shape
    assert reader.dtype == voxels.dtype
    whole = reader.read((0, 0, 0), reader.shape)
    assert whole.dtype == voxels.dtype
    np.testing.assert_array_equal(whole, voxels)
    np.testing.assert_array_equal(reader.read((1, 2, 3), (2, 5, 7)), voxels[1:3, 2:7, 3:10])
    np.testing.assert_array_equal(reader.read((5, 0, 0), (1, 20, 24)), voxels[5:])
    return reader
