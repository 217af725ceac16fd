"""How a command ends: with an exit status, and one sentence for an error."""

import sys
import warnings

INTERRUPTED = 130  # as a shell reports a process that SIGINT ended


def exit_status(run, after_interrupt="nothing was written", failed=1):
    """The exit status of a command.

    Args:
      run: () -> exit status; a ValueError or OSError that it raises is printed.
      after_interrupt: what Ctrl-C leaves behind, as a clause.
      failed: exit status after such an error.
    """
    warn_in_one_line()
    try:
        return run()
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return failed
    except KeyboardInterrupt:
        print(f"Interrupted: {after_interrupt}.", file=sys.stderr)
        return INTERRUPTED


def warn_in_one_line():
    """Print warnings of this project as "Warning: …", without the line of code behind them."""
    warnings.formatwarning = _format_warning


_in_full = warnings.formatwarning


def _format_warning(message, category, filename, lineno, line=None):
    if category is UserWarning:
        return f"Warning: {message}\n"
    return _in_full(message, category, filename, lineno, line)


def report_errors(sentences, total, noun):
    """Print the errors of single files, and how many failed; the exit status, 0 without errors.

    Args:
      sentences: one for each file that failed.
      total: number of files.
      noun: for them, in the plural.
    """
    for sentence in sentences:
        print(f"Error: {sentence}", file=sys.stderr)
    if sentences:
        print(f"{len(sentences)} of {total} {noun} failed.", file=sys.stderr)
    return 1 if sentences else 0
