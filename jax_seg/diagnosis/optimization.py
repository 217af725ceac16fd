"""Checks of optimization."""

CHECKS = ()
