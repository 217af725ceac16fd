"""A volume measured section by section has the numbers of the same volume in memory."""

import numpy as np
import pytest
import tifffile

from jax_seg.data.preprocess import REGIONS, PerVolume, measure
from jax_seg.data.readers import open_image, sections


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("region", REGIONS)
def test_measured_as_in_memory(tmp_path, monkeypatch, channels, region):
    shape = (13, 11, 17)
    generator = np.random.default_rng(0)
    images = generator.integers(5, 2000, (channels, *shape)).astype(np.uint16)
    images[:, :2], images[:, :, 8:], images[..., :3] = 0, 0, 0
    for number, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"v_{number:04}.tif", image, photometric="minisblack")
    last = f"{{0000..{channels - 1:04}}}" if channels > 1 else "0000"
    reader = open_image(tmp_path / f"v_{last}.tif")
    monkeypatch.setattr(sections, "SLAB_BYTES", 3 * 11 * 17 * 2 * channels)  # three sections
    rule = PerVolume("zscore", 1.0, 99.0, region)
    in_memory = images[0] if channels == 1 else np.moveaxis(images, 0, -1)
    assert measure(sections.of(reader), rule) == measure(in_memory, rule)
    numbers, box = measure(sections.of(reader), rule)
    assert box[0] == (slice(None) if region == "all" else slice(2, 13))
    assert np.shape(numbers.shift) == (() if channels == 1 else (2,))
