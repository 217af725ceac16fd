"""Scores, class balance, thresholds and comparisons."""
