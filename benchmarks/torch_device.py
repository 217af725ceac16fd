"""Where PyTorch's contestants run, and what a training step holds there."""

import functools

import jax
import torch

from benchmarks.timing import those_that_run


def device():
    """'cuda' where JAX computes on a GPU, else 'cpu'.

    Raises:
      RuntimeError: JAX computes on a GPU that PyTorch does not see.
    """
    if jax.default_backend() != "gpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU: install a build for the CUDA of its driver")
    return "cuda"


def contestants(build):
    """{name: contestant} of PyTorch, eager and on a GPU compiled, as far as they run.

    Args:
      build: (compiled=) -> (training call, inference call, …).
    """
    builders = {"PyTorch": functools.partial(build, compiled=False)}
    if jax.default_backend() == "gpu":
        builders["PyTorch compiled"] = functools.partial(build, compiled=True)
    return those_that_run(builders, release=torch.cuda.empty_cache)


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
