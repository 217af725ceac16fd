"""Checks of augmentation."""

CHECKS = ()
