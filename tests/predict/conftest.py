"""Two runs without training, anew for each file, and an image of their volumes."""

import pytest

from tests.predicting import write_runs


@pytest.fixture(scope="module")
def runs(volumes_folder, tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"), volumes_folder)


@pytest.fixture
def image(volumes_folder):
    return volumes_folder / "train_images" / "v0.tif"
