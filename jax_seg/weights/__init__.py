"""Weights of other programs: PyTorch, timm."""
