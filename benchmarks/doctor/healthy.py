"""Set-ups in which nothing is wrong."""

from benchmarks.doctor.setups import scrolls

SETUPS = {
    "scrolls": lambda folder: scrolls(folder, 0)._replace(trains=True),
    "scrolls, before the run": scrolls,
}
"""{name: folder -> Setup, or None where its data are not on this machine}."""
