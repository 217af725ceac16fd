from pathlib import Path

import pytest

from jax_seg.system.files import existing


@pytest.mark.parametrize("address", ["s3://bucket/a.zarr", "gs://bucket/a", "https://host.org/a"])
def test_addresses_are_refused_for_what_they_are(address):
    for path in (address, Path(address)):  # Path makes one slash of two
        with pytest.raises(ValueError, match=f"^{address} is an address, .* copy or mount it here"):
            existing(path)


def test_existing(tmp_path):
    assert existing(str(tmp_path)) == tmp_path
    for absent in ("nowhere", "a:b", "C:/data"):
        with pytest.raises(FileNotFoundError, match=f"{absent} does not exist"):
            existing(absent)
    (tmp_path / "s3:").mkdir()
    assert existing(tmp_path / "s3:").name == "s3:"
