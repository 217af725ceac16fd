"""What every command does first: keep compiled programs between runs, and the terminal quiet."""

import os
from pathlib import Path

import absl.logging
import jax


def prepare():
    """Turn on JAX's persistent compilation cache, and Orbax's remarks off.

    The cache lies in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/jax_seg/compiled: the second
    start of a configuration reads its programs from there.
    """
    absl.logging.set_verbosity(absl.logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path.home() / ".cache" / "jax_seg" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
