"""NumPy's files may be opened by many threads."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jax_seg.system.arrays import load_arrays, map_array

TIMES = 400


@pytest.fixture
def a_collector_that_yields():
    """The garbage collector lets another thread run, and runs often."""
    before = gc.get_threshold()

    def callback(phase, info):
        time.sleep(0)

    gc.callbacks.append(callback)
    gc.set_threshold(5)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(callback)


@pytest.mark.usefixtures("a_collector_that_yields")
def test_threads_open_files_at_once(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.ones((2, 3)))
    np.save(tmp_path / "a.npy", np.arange(4))

    def total(_):
        arrays = load_arrays(tmp_path / "a.npz")
        return arrays["a"].sum() + arrays["b"].sum() + map_array(tmp_path / "a.npy").sum()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(total, range(TIMES))) == {15}
