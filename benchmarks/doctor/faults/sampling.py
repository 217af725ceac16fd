"""Faults of sampling."""

FAULTS = ()
