"""Small Zarr arrays, OME-Zarr images and metadata with faults."""

import json

import zarr


def write_zarr(path, voxels, version, lead=(), **options):
    shape = (*(1,) * len(lead), *voxels.shape)
    chunks = (*(1,) * len(lead), 4, 8, 16)
    zarr.create_array(
        path, data=voxels.reshape(shape), chunks=chunks, zarr_format=version, **options
    )


def write_ome_zarr(path, voxels, version):
    group = zarr.create_group(path, zarr_format=version)
    multiscales = [{"axes": [], "datasets": [{"path": "s0"}, {"path": "s1"}]}]
    group.attrs.update(
        {"multiscales": multiscales}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    write_zarr(path / "s0", voxels, version, lead=(1, 1))
    write_zarr(path / "s1", voxels[:, ::2, ::2], version, lead=(1, 1))


def write_image(path, voxels, axes, version=2, name="0", scale=(), unit=None, **options):
    """One level of an OME-Zarr image with named axes; a second call adds another level."""
    group = zarr.open_group(path, mode="a", zarr_format=version)
    kinds = {"c": "channel", "t": "time"}
    described = [{"name": n, "type": kinds.get(n, "space")} for n in axes]
    if unit:
        described = [axis | {"unit": unit} for axis in described]
    ome = dict(group.attrs) if version == 2 else dict(group.attrs.get("ome", {"version": "0.5"}))
    image = ome.setdefault("multiscales", [{"axes": described, "datasets": []}])[0]
    level = {"path": name}
    if scale:
        level["coordinateTransformations"] = [{"type": "scale", "scale": list(scale)}]
    image["datasets"].append(level)
    group.attrs.update(ome if version == 2 else {"ome": ome})
    if voxels is not None:
        chunks = tuple(min(8, length) for length in voxels.shape)
        zarr.create_array(path / name, data=voxels, chunks=chunks, zarr_format=version, **options)


def write_attributes(folder, text, name=".zattrs"):
    folder.mkdir()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / name).write_bytes(text)


def edit_metadata(path, **fields):
    metadata = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))
