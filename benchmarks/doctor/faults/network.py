"""Faults of network."""

FAULTS = ()
