"""Checks of judging."""

CHECKS = ()
