"""The faults that are planted, one file per family of checks."""

from benchmarks.doctor.faults import (
    augmentation,
    judging,
    labels,
    loss,
    network,
    notes,
    optimization,
    sampling,
    volumes,
)

FAMILIES = (labels, volumes, sampling, augmentation, loss, optimization, network, judging, notes)
FAULTS = tuple(fault for family in FAMILIES for fault in family.FAULTS)
