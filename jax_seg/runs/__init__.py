"""What a workdir holds: configuration, checkpoints, events, held-out volumes."""
