"""Where PyTorch's contestants run, and what a training step holds there."""

import functools

import jax
import torch

from benchmarks.timing import those_that_run


def device():
    """'cuda' where JAX computes on a GPU, else 'cpu'.

    There cuDNN's kernels are chosen by timing them, as XLA chooses its own.

    Raises:
      RuntimeError: JAX computes on a GPU that PyTorch does not see.
    """
    if jax.default_backend() != "gpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU: install a build for the CUDA of its driver")
    torch.backends.cudnn.benchmark = True
    return "cuda"


def contestants(build, alone=False, compiled=True, channels_first=False):
    """{name: contestant} of PyTorch, eager and on a GPU in other ways too, as far as they run.

    Args:
      build: (compiled=, channels_first=) -> (training call, inference call, …).
      alone: as for `those_that_run`.
      compiled: also compiled.
      channels_first: also channels first in memory, PyTorch's default, in which its instance norm
        is the faster.
    """
    builders = {"PyTorch": build}
    if jax.default_backend() == "gpu":
        if channels_first:
            builders["PyTorch channels first"] = functools.partial(build, channels_first=True)
        if compiled:
            builders["PyTorch compiled"] = functools.partial(build, compiled=True)
    return those_that_run(builders, torch.cuda.empty_cache, alone)


def layout(channels_first):
    """The memory of volumes, for PyTorch's `memory_format`."""
    return torch.contiguous_format if channels_first else torch.channels_last_3d


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
