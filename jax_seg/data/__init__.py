"""Folders, labels, folds, sampling and augmentation; one reader per format."""
