"""Faults of volumes."""

FAULTS = ()
