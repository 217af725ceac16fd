"""Import weights of other programs: PyTorch, timm."""
