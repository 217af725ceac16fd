"""Faults of judging."""

FAULTS = ()
