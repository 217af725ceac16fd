"""Checks of labels."""

CHECKS = ()
