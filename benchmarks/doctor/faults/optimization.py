"""Faults of optimization."""

FAULTS = ()
