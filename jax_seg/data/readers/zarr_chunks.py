"""Whether the chunk files of a Zarr array are where its metadata says.

Libraries read a chunk without a file as the fill value, whether it was omitted on purpose, lost or
stored under another name; so the files are compared with the metadata when an array is opened.
"""

import math
import os
import re

_LOOKS_LIKE_A_CHUNK = re.compile(r"(c[./])?\d+([./]\d+)*")


def check_chunks(path, array):
    """A tuple of sentences about absent chunks: one or none.

    Lists the folder of the array once; reads no chunk.

    Args:
        path: of the volume, for errors.
        array: `zarr_metadata.Array`.

    Raises:
        ValueError: no chunk exists, or some lie outside the grid of the metadata.
    """
    grid, pattern, separator = _grid(path, array)
    present = 0
    for name in _chunk_names(array.folder):
        match = pattern.fullmatch(name)
        if not match or any(int(i) >= n for i, n in zip(match.groups(), grid, strict=True)):
            raise ValueError(
                f"{path} holds the chunk {name}, which its metadata does not reach (chunks are "
                f"named with the separator '{separator}', the last is {_last(grid, separator)}): "
                "correct the separator or the shape in its metadata, or copy it again."
            )
        present += 1
    total = math.prod(grid)
    if not present:
        raise ValueError(
            f"{path} holds none of its {total} chunks, so every voxel would read as the fill "
            "value: copy it again, or write empty chunks too if it is meant to be empty."
        )
    if present == total:
        return ()
    fill = array.metadata.get("fill_value")
    return (
        f"{path} lacks {total - present} of its {total} chunks ({1 - present / total:.1%}), which "
        f"read as {0 if fill is None else fill}: copy it again unless they were omitted on "
        "purpose.",
    )


def _grid(path, array):
    """(chunks along each axis, pattern of a chunk's name, separator)."""
    metadata = array.metadata
    try:
        if array.version == 2:
            lengths, prefix = metadata["chunks"], ""
            separator = metadata.get("dimension_separator", ".")
        else:
            lengths = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            encoding = metadata["chunk_key_encoding"]
            default = encoding["name"] == "default"
            separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
            prefix = f"c{re.escape(separator)}" if default else ""
        grid = [-(-n // chunk) for n, chunk in zip(array.shape, lengths, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path} has metadata without a regular grid of chunks: write it again."
        ) from error
    return (
        grid,
        re.compile(prefix + re.escape(separator).join([r"(0|[1-9]\d*)"] * len(grid))),
        separator,
    )


def _last(grid, separator):
    return separator.join(str(n - 1) for n in grid)


def _chunk_names(folder, above=""):
    """The files below the folder of an array whose names look like those of chunks."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = above + entry.name
            if not _LOOKS_LIKE_A_CHUNK.fullmatch(name) and name != "c":
                continue
            if entry.is_dir():
                yield from _chunk_names(entry.path, f"{name}/")
            else:
                yield name
