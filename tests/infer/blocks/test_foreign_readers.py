"""OME-Zarr images of this project, as the readers of ome-zarr (napari's) and ngff-zarr see them."""

import json

import numpy as np
import pytest

from jax_seg.infer.blocks import store
from jax_seg.infer.blocks.cuts import Cuts

SPACING, UNIT = (2.0, 0.5, 0.25), "micrometer"
# By hand: the spacing doubles, and the first voxel's centre lies amid the finest ones it covers.
SCALES = [SPACING, (4.0, 1.0, 0.5), (8.0, 2.0, 1.0)]
SHIFTS = [(0.0, 0.0, 0.0), (1.0, 0.25, 0.125), (3.0, 0.75, 0.375)]
SHAPES = [(20, 14, 18), (10, 7, 9), (5, 4, 5)]

KINDS = pytest.mark.parametrize(
    ("version", "dtype", "halved"),
    [(v, *kind) for v in store.VERSIONS for kind in [("uint8", "maximum"), ("float16", "mean")]],
)


def write(folder, version, dtype, halved, spacing=SPACING, unit=UNIT):
    """An image whose levels hold numbers of their own; [voxels of each level]."""
    cuts = Cuts(SHAPES[0], (8, 8, 8))
    levels = store.pyramid(folder, cuts, chunk=(4, 4, 4), dtype=dtype, version=version)
    folder.mkdir()
    store.create(folder, levels, spacing=spacing, unit=unit, top=1, halved=halved)
    generator, content = np.random.default_rng(0), []
    for level in levels:
        voxels = generator.random(level.cuts.shape).astype(np.float16)
        voxels = (voxels > 0.5).astype(dtype) if dtype == "uint8" else voxels
        for index in np.ndindex(*level.cuts.counts):
            start, size = level.cuts.box(index)
            places = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
            level.write(index, voxels[places])
        content.append(voxels)
    assert [voxels.shape for voxels in content] == SHAPES
    return content


def require_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        voxels = np.asarray(one)
        assert voxels.dtype == other.dtype
        np.testing.assert_array_equal(voxels, other)


@KINDS
def test_ome_zarr_reads_an_image(tmp_path, version, dtype, halved):
    pytest.importorskip("ome_zarr", reason="ome-zarr is not installed")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import OMERO, Multiscales, Reader

    written = write(tmp_path / "v.zarr", version, dtype, halved)
    location = parse_url(str(tmp_path / "v.zarr"))
    assert location.fmt.version == version
    (node,) = Reader(location)()
    assert [type(spec) for spec in node.specs] == [Multiscales, OMERO]
    require_equal(node.data, written)
    found = node.metadata
    assert found["axes"] == [{"name": n, "type": "space", "unit": UNIT} for n in "zyx"]
    finest, *coarser = found["coordinateTransformations"]
    assert finest == [{"type": "scale", "scale": list(SCALES[0])}]
    assert coarser == [
        [
            {"type": "scale", "scale": list(scale)},
            {"type": "translation", "translation": list(shift)},
        ]
        for scale, shift in zip(SCALES[1:], SHIFTS[1:], strict=True)
    ]
    assert (found["name"], found["channel_names"]) == ("v", ["prediction"])
    assert found["contrast_limits"] == [[0, 1]] and found["visible"] == [True]


@KINDS
def test_ngff_zarr_reads_an_image_that_its_schema_accepts(tmp_path, version, dtype, halved):
    ngff_zarr = pytest.importorskip("ngff_zarr", reason="ngff-zarr is not installed")
    pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    written = write(tmp_path / "v.zarr", version, dtype, halved)
    image = ngff_zarr.from_ngff_zarr(str(tmp_path / "v.zarr"), validate=True)
    require_equal([level.data for level in image.images], written)
    for level, scale, shift in zip(image.images, SCALES, SHIFTS, strict=True):
        assert tuple(level.dims) == ("z", "y", "x")
        assert level.scale == dict(zip("zyx", scale, strict=True))
        assert level.translation == dict(zip("zyx", shift, strict=True))
        assert level.axes_units == dict.fromkeys("zyx", UNIT)


@pytest.mark.parametrize("version", store.VERSIONS)
@pytest.mark.parametrize(("spacing", "unit"), [(SPACING, UNIT), (None, None)])
def test_the_strict_schema_accepts_an_image_but_none_without_its_scales(
    tmp_path, version, spacing, unit
):
    """The strict schema also requires what the specification recommends."""
    pytest.importorskip("ngff_zarr", reason="ngff-zarr is not installed")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    from ngff_zarr.validate import validate

    write(tmp_path / "v.zarr", version, "uint8", "maximum", spacing, unit)
    if version == "0.5":
        attributes = json.loads((tmp_path / "v.zarr/zarr.json").read_text())["attributes"]
        (image,) = attributes["ome"]["multiscales"]
    else:
        attributes = json.loads((tmp_path / "v.zarr/.zattrs").read_text())
        (image,) = attributes["multiscales"]
    validate(attributes, version=version, strict=True)
    assert image["type"] == "maximum" and "largest" in image["metadata"]["description"]
    del image["datasets"][1]["coordinateTransformations"]
    with pytest.raises(jsonschema.ValidationError, match="coordinateTransformations"):
        validate(attributes, version=version, strict=True)
