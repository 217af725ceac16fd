"""The distance between voxels, as ImageJ, OME-TIFF and OME-Zarr files give it."""

import math
import xml.etree.ElementTree

from jax_seg.system.files import channel_files, read_json

TOLERANCE = 0.01  # spacings that differ by no more than this share are the same
_MICROMETRES = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "µm": 1.0,  # the micro sign
    "μm": 1.0,  # the Greek letter
    "\\u00b5m": 1.0,  # as ImageJ writes it
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "in": 25.4e3,
    "inch": 25.4e3,
}


def three_positive(numbers):
    """The tuple of three finite numbers above 0; None where these are something else."""
    try:
        three = tuple(float(number) for number in numbers)
    except (TypeError, ValueError):
        return None
    if len(three) != 3 or not all(math.isfinite(one) and one > 0 for one in three):
        return None
    return three


def in_micrometres(numbers, units):
    """(z, y, x) of three numbers and the names of their units.

    Returns:
        Micrometres where every unit is known; the numbers themselves where all have the same other
        unit, or none; None where a number is missing or not positive, or units do not compare.
    """
    numbers = three_positive(numbers)
    if numbers is None:
        return None
    units = [str(unit or "").lower() for unit in units]
    if all(unit in _MICROMETRES for unit in units):
        return tuple(n * _MICROMETRES[unit] for n, unit in zip(numbers, units, strict=True))
    return numbers if len(set(units)) == 1 else None


def unit_of_tiff(tiff):
    """'µm' where `of_tiff` gives micrometres, else None; of an open tifffile.TiffFile."""
    if tiff.is_imagej:
        return "µm" if unit_of([(tiff.imagej_metadata or {}).get("unit")]) else None
    if tiff.is_ome:
        pixels = _pixels(tiff.ome_metadata)
        units = [] if pixels is None else [pixels.get(f"PhysicalSize{a}Unit", "µm") for a in "ZYX"]
        return "µm" if unit_of(units) else None
    return None


def unit_of(units):
    """'micrometer' where `in_micrometres` knows all units, else None."""
    known = all(str(unit or "").lower() in _MICROMETRES for unit in units)
    return "micrometer" if known else None


def of_tiff(tiff):
    """The spacing of an open tifffile.TiffFile, as `in_micrometres`; None where it gives none."""
    if tiff.is_imagej:
        metadata, tags = tiff.imagej_metadata or {}, tiff.pages[0].tags
        per_unit = [tags.valueof(name) for name in ("YResolution", "XResolution")]
        if "spacing" not in metadata or not all(isinstance(p, tuple) and all(p) for p in per_unit):
            return None
        plane = [below / above for above, below in per_unit]
        return in_micrometres([metadata["spacing"], *plane], [metadata.get("unit")] * 3)
    if tiff.is_ome:
        return _of_ome(tiff.ome_metadata)
    return None


def as_nnunet(path, reader):
    """The spacing of a volume as nnU-Net reads it; None where it would find none.

    Args:
        path: of the volume. Of CASE.tif or CASE_0000.tif, nnU-Net reads the field spacing of
            CASE.json beside it, in any unit; NIfTI counts millimetres. Of NRRD it reads bare
            numbers, whatever their unit.
        reader: of the volume, or of the first of its channels.

    Raises:
        ValueError: the JSON file is damaged.
    """
    path = channel_files(path)[0]
    if path.suffix.lower() in (".tif", ".tiff"):
        beside = path.with_name(f"{path.stem.removesuffix('_0000')}.json")
        found = read_json(beside) if beside.is_file() else {}
        numbers = found.get("spacing") if isinstance(found, dict) else None
        return three_positive(numbers)
    if path.suffix.lower() == ".nrrd":
        return reader.lengths
    if path.name.lower().endswith((".nii", ".nii.gz")) and reader.spacing:
        return tuple(number / 1000 for number in reader.spacing)
    return None


def differ(one, other):
    """Whether two spacings differ by more than `TOLERANCE` along an axis."""
    return any(abs(a - b) > TOLERANCE * b for a, b in zip(one, other, strict=True))


def completed(spacing, of_volume):
    """A spacing (z, y, x) that is None along some axes, there as that of a volume."""
    return tuple(b if a is None else a for a, b in zip(spacing, of_volume, strict=True))


def in_words(spacing):
    """'4 × 1 × 1 (z, y, x)'; an axis whose spacing is None has 'any'."""
    each = ("any" if number is None else f"{number:.4g}" for number in spacing)
    return " × ".join(each) + " (z, y, x)"


def unequal(spacing):
    """Whether one of the numbers is half as much again as another."""
    return max(spacing) > 1.5 * min(spacing)


def _pixels(text):
    """The element Pixels of OME's XML; None where there is none."""
    try:
        return xml.etree.ElementTree.fromstring(text).find(".//{*}Pixels")
    except xml.etree.ElementTree.ParseError:
        return None


def _of_ome(text):
    pixels = _pixels(text)
    if pixels is None:
        return None
    return in_micrometres(
        [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"],
        [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"],  # the standard's default
    )
