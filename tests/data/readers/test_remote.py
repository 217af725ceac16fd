"""Zarr volumes of a server are read like those of the disk."""

import functools
import http.server
import pickle
import threading

import numpy as np
import pytest

from jax_seg.data.readers import open_volume, remote
from tests.volumes import check_reader, make_voxels
from tests.zarr_volumes import write_image, write_ome_zarr, write_zarr


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(folder, its address)."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("version", [2, 3])
def test_arrays_and_images_of_a_server(server, version):
    folder, url = server
    voxels = make_voxels(np.uint16)
    write_zarr(folder / f"a{version}.zarr", voxels, version)
    check_reader(f"{url}/a{version}.zarr", voxels)
    write_ome_zarr(folder / f"o{version}.zarr", voxels, version)
    check_reader(f"{url}/o{version}.zarr/", voxels)
    reader = check_reader(f"{url}/o{version}.zarr/s0", voxels)
    assert str(reader.path) == f"{url}/o{version}.zarr/s0"


def test_the_spacing_of_an_image_of_a_server(server):
    folder, url = server
    options = {"version": 3, "scale": (2000, 500, 500), "unit": "nanometer"}
    write_image(folder / "s.zarr", make_voxels(), "zyx", **options)
    reader = open_volume(f"{url}/s.zarr")
    assert reader.spacing == (2, 0.5, 0.5) and reader.unit == "micrometer"


def test_what_is_not_there_is_named(server):
    _, url = server
    with pytest.raises(ValueError, match=r"none.zarr is a Zarr group on a server"):
        open_volume(f"{url}/none.zarr")
    with pytest.raises(OSError, match=r"http://127.0.0.1:1/v.zarr/.* cannot be read"):
        open_volume("http://127.0.0.1:1/v.zarr")


def test_addresses_by_hand():
    address = remote.Address("s3:/bucket/a//b.zarr/")  # as `Path` leaves it
    assert str(address) == "s3://bucket/a/b.zarr" and address.name == "b.zarr"
    assert [str(one) for one in address.parents] == ["s3://bucket/a"]
    assert pickle.loads(pickle.dumps(address)) == address != address / "0"
    assert not remote.is_address("/data/v.zarr") and not remote.is_address("ftp://a/b")
