"""Checks of volumes."""

CHECKS = ()
