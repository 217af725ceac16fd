"""Causes of a run that stands still: one file of checks per family, on shared evidence."""
