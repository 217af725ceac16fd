"""Where PyTorch's contestants run, and what a training step holds there."""

import jax
import torch


def device():
    """'cuda' where JAX computes on a GPU that PyTorch has as well, else 'cpu'."""
    both = torch.cuda.is_available() and jax.default_backend() == "gpu"
    return "cuda" if both else "cpu"


def synchronise(on):
    """Wait for what a device of `device` still computes."""
    if on == "cuda":
        torch.cuda.synchronize()


def peak_memory(train, on):
    """Bytes that a training step holds at most on a GPU, without what its first call needs once.

    nan on a CPU.
    """
    if on != "cuda":
        return float("nan")
    train()
    torch.cuda.reset_peak_memory_stats()
    train()
    return torch.cuda.max_memory_allocated()
