"""How a command ends: with an exit status, and one sentence for an error."""

import sys

INTERRUPTED = 130  # as a shell reports a process that SIGINT ended


def exit_status(run, after_interrupt="nothing was written"):
    """The exit status of a command.

    Args:
      run: () -> exit status; a ValueError or OSError that it raises is printed and gives status 1.
      after_interrupt: what Ctrl-C leaves behind, as a clause.
    """
    try:
        return run()
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted: {after_interrupt}.", file=sys.stderr)
        return INTERRUPTED
