"""Checks of loss."""

CHECKS = ()
