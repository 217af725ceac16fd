"""Faults of labels."""

FAULTS = ()
