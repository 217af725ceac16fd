"""What every command does first: set up the compilation cache and XLA, quiet the libraries."""

import ctypes
import importlib.util
import logging
import os
import sys
import warnings

import absl.logging
import jax

from jax_seg.system import commands, home

CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
CHANNELS_LAST = "xla_gpu_force_conv_nhwc"
DRIVER = "libcuda.so.1"  # NVIDIA's, without which there is no card


def prepare():
    """Turn on JAX's persistent compilation cache and turn off the libraries' log messages.

    The cache lies in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/jax_seg/compiled, or under the
    temporary directory if there is no home folder. The second start of a configuration reads its
    programs from there. A GPU convolves channels last. Warnings of this project are printed as one
    line, "Warning: …".
    """
    _hush_orbax()
    # JAX reads a program that another process is just writing as a damaged one, and compiles it.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    _expect_no_card_without_a_driver()
    convolve_channels_last()
    commands.warn_in_one_line()
    folder = home.cache_folder()
    if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if folder and not home.has_home():
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def convolve_channels_last():
    """Have XLA run a GPU's convolutions channels last, as all arrays here are; before JAX computes.

    Left to itself, it transposes bfloat16 volumes to channels first and back, though cuDNN's
    kernels for tensor cores want them last: `python -m benchmarks.gpu_program`.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if has_plugin() and CHANNELS_LAST not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{CHANNELS_LAST}=true".strip()


def has_plugin():
    """Whether JAX's plugin for NVIDIA GPUs is installed."""
    return any(map(importlib.util.find_spec, CUDA_PLUGINS))


def _expect_no_card_without_a_driver():
    """A plugin that is there to compile for a card alone would report an error at every start."""
    if not has_plugin():
        return
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def _hush_orbax():
    """Where a checkpoint cannot be written Orbax raises the error and reports it again and again.

    Each of its threads logs the error with its traceback; asyncio, which nothing else here uses,
    logs the tasks that stopped midway, and Python warns of those that never began; and TensorStore
    has Python print an error, which nobody can catch, wherever it would have reported to such a
    task.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _print_unraisable


def _print_unraisable(unraisable):
    # A loop of uvloop's calls it a handle.
    closed = "Event loop is closed", "the handle is closed"
    if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value).endswith(closed)):
        sys.__unraisablehook__(unraisable)
