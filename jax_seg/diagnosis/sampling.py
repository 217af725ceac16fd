"""Checks of sampling."""

CHECKS = ()
