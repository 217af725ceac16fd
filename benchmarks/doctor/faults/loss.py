"""Faults of loss."""

FAULTS = ()
