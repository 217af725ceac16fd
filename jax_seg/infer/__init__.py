"""Sliding windows over whole volumes, ensembles, post-processing."""
