"""Faults of augmentation."""

FAULTS = ()
