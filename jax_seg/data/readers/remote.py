"""Zarr volumes on a server or in an object store: http://, https://, s3:// and gs:// addresses.

An `Address` has those methods of `pathlib.Path` that finding an array needs. Tensorstore reads,
with the credentials that its drivers find: https://google.github.io/tensorstore/kvstore/index.html.
"""

import functools
import re

import tensorstore

_SCHEME = re.compile(r"(https?|s3|gs):/+(.+)")
_RETRIES = {"max_retries": 5, "initial_delay": "0.2s", "max_delay": "5s"}
CONTEXT = {f"{kind}_request_retries": _RETRIES for kind in ("http", "s3", "gcs")}
"""Of tensorstore; by default it would try a server that is not there for half an hour."""


def is_address(path):
    """Whether a path is an address that `Address` takes."""
    return isinstance(path, Address) or _SCHEME.fullmatch(str(path)) is not None


class Address:
    """An address such as https://host/scroll.zarr, without what follows a '?'."""

    def __init__(self, url):
        """Takes the address as text; one slash after the scheme is enough, as `Path` leaves it."""
        scheme, rest = _SCHEME.fullmatch(str(url)).groups()
        self._scheme, self._parts = scheme, tuple(part for part in rest.split("/") if part)

    def __str__(self):
        return f"{self._scheme}://{'/'.join(self._parts)}"

    def __fspath__(self):
        raise ValueError(f"{self} is an address, not a file of this machine.")

    def __truediv__(self, name):
        return Address(f"{self}/{name}")

    def __eq__(self, other):
        return isinstance(other, Address) and str(self) == str(other)

    def __hash__(self):
        return hash(str(self))

    def __reduce__(self):
        return Address, (str(self),)

    @property
    def name(self):
        """Its last part."""
        return self._parts[-1]

    @property
    def parents(self):
        """The addresses above it, nearest first, without the host or bucket alone."""
        heads = [self._parts[:n] for n in range(len(self._parts) - 1, 1, -1)]
        return [Address(f"{self._scheme}://{'/'.join(head)}") for head in heads]

    @property
    def parent(self):
        """The address above it."""
        return Address(f"{self._scheme}://{'/'.join(self._parts[:-1])}")

    def absolute(self):
        """The address itself."""
        return self

    def is_file(self):
        """Whether there is an object."""
        return self._read() is not None

    def read_text(self):
        """The content of an object; FileNotFoundError without one, OSError without an answer."""
        content = self._read()
        if content is None:
            raise FileNotFoundError(f"{self} does not exist: check the address.")
        return content.decode()

    def iterdir(self):
        """Servers do not list folders."""
        raise ValueError(f"{self} is a Zarr group on a server: give the address of its array.")

    def store(self):
        """The key-value store of tensorstore for what lies below it."""
        return f"{self}/"

    def _read(self):
        try:
            result = _folder(f"{self.parent}/").read(self.name).result()
        except Exception as error:  # every driver has its own
            reason = " ".join(str(error).partition(" [")[0].split())
            raise OSError(
                f"{self} cannot be read ({reason}): check address and network."
            ) from error
        return bytes(result.value) if result.state == "value" else None


@functools.lru_cache(64)
def _folder(url):
    return tensorstore.KvStore.open(url, context=tensorstore.Context(CONTEXT)).result()
