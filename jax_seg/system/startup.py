"""What every command does first: set up the compilation cache and quiet the libraries."""

import os
import warnings

import absl.logging
import jax

from jax_seg.system import home


def prepare():
    """Turn on JAX's persistent compilation cache and turn off the libraries' log messages.

    The cache lies in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/jax_seg/compiled, or under the
    temporary directory if there is no home folder. The second start of a configuration reads its
    programs from there. Warnings of this project are printed as one line, "Warning: …".
    """
    absl.logging.set_verbosity(absl.logging.ERROR)
    warnings.formatwarning = _format_warning
    folder = home.cache_folder()
    if folder and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if folder and not home.has_home():
        os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


_in_full = warnings.formatwarning


def _format_warning(message, category, filename, lineno, line=None):
    if category is UserWarning:
        return f"Warning: {message}\n"
    return _in_full(message, category, filename, lineno, line)
