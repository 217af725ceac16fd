"""Shared fixtures: a tiny folder of labelled volumes, a configuration that trains in seconds."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, settings

from configs import base

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
GOLDEN = ROOT / "tests" / "golden"
# Traced programs are many objects that live long: looking through all of them again and again for
# garbage takes an eighth of the suite's time.
gc.set_threshold(100_000, 50, 1000)
TIME_LIMIT = 1800  # seconds, of whatever a test waits for: against hanging alone
# No example is too slow: how long one takes depends on what else the machine does. The examples
# are the same in every run, so that what fails has changed.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")
# Whatever starts the suite, it is no job of a cluster, and its processes meet without a proxy.
for name in list(os.environ):
    if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_")) or "_proxy" in name.lower():
        del os.environ[name]
# Many tests build the same programs: all workers, and the processes that they start, share them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what is tested does not change with a card
# Compiling is most of the suite's time, and what it optimizes runs for milliseconds.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)


def pytest_collection_modifyitems(items):
    """Folders with long files first, so that no worker is left with one of them at the end."""
    longest = [ROOT / "tests" / "training", ROOT / "tests"]
    items.sort(key=lambda one: [one.path.parent != folder for folder in longest])


@pytest.fixture(scope="session", autouse=True)
def _programs_are_shared():
    """Runs of equal programs compile them once; a process that reads this file alone does not."""
    from tests import shared_programs

    with pytest.MonkeyPatch.context() as patch:
        shared_programs.share(patch)
        yield


def write_volumes(root, count=6, size=20, seed=0):
    """Volumes with one bright plane each, in the competition's layout; two volumes per scroll."""
    generator = np.random.default_rng(seed)
    for folder in ("train_images", "train_labels"):
        (root / folder).mkdir(parents=True)
    rows = ["id,scroll_id"]
    for number in range(count):
        image = generator.normal(80, 12, (size,) * 3)
        label = np.zeros((size,) * 3, np.uint8)
        depth = int(generator.integers(4, size - 6))
        image[depth : depth + 2] += 90
        label[depth : depth + 2] = 1
        label[:, :, : size // 4] = 2
        image = np.clip(image, 0, 255).astype(np.uint8)
        tifffile.imwrite(root / "train_images" / f"v{number}.tif", image, compression="lzw")
        tifffile.imwrite(root / "train_labels" / f"v{number}.tif", label, compression="lzw")
        rows.append(f"v{number},s{number // 2}")
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    return root


def tiny_config(root):
    """A network of 2 filters on patches of 16³: seconds on any machine."""
    config = base.get_config()
    config.data.update(root=str(root), folds=3, patch=(16, 16, 16), threads=1)
    config.data.patches_per_volume = 2
    config.model.update(filters=2, poolings=1)
    config.schedule.update(name="constant", learning_rate=0.05, warmup_epochs=0)
    config.optimizer.update(momentum=0.9)
    config.average.swa_every = 0
    config.noise.std = 0.0
    config.train.epochs = 2
    config.validate.volumes_every = 1
    config.postprocess.steps = ("fill_holes",)
    return config


@pytest.fixture(scope="session")
def volumes_folder(tmp_path_factory):
    """Six labelled volumes of 20³ on the disk."""
    return write_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Volumes of the runs that the report shows."""
    return write_volumes(tmp_path_factory.mktemp("page_data"), size=20)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, data):
    """Two finished runs, as the report reads them."""
    from jax_seg.runs import run as opened
    from tests.report_runs import make_run

    folder = tmp_path_factory.mktemp("runs")
    return opened.read_runs([make_run(folder / "a", data), make_run(folder / "b", data, shift=0.1)])
