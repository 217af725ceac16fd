"""Write one 3-D volume as a compressed TIFF stack."""

import tifffile

from jax_seg.system.files import replacing

CLASSIC_BYTES = 2**32 - 2**25
"""Of voxels, at most: a classic TIFF addresses 4 GiB, and 32 MiB are left for its tags."""


def write_tiff(path, voxels, *, compression, origin=None, spacing=None, unit=None):
    """Write [D, H, W] as a TIFF, one page per slice, whole or not at all.

    It is a BigTIFF where the voxels might not fit a classic one: how far they compress is known
    only after all of them are written.

    Args:
      path: of the file.
      voxels: [D, H, W], integers or floating point.
      compression: 'lzw' or 'zlib'.
      origin: name of the writing program, for the tag Software.
      spacing: (z, y, x) of the voxels, which makes it an OME-TIFF; None for a plain one.
      unit: of the spacing, as 'µm'; None where it is not known.
    """
    metadata = None
    if spacing:
        unit = unit or "reference frame"  # OME's unit of lengths that only compare
        sizes = {f"PhysicalSize{axis}": n for axis, n in zip("ZYX", spacing, strict=True)}
        units = {f"PhysicalSize{axis}Unit": unit for axis in "ZYX"}
        metadata = {"axes": "ZYX", **sizes, **units}
    with replacing(path) as beside:
        tifffile.imwrite(
            beside,
            voxels,
            bigtiff=voxels.nbytes > CLASSIC_BYTES,
            photometric="minisblack",
            compression=compression,
            software=origin,
            **({"ome": True, "metadata": metadata} if metadata else {}),
        )
