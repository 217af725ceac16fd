"""Faults of notes."""

FAULTS = ()
