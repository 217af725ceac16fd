"""The known name that is nearest to an unknown one."""

import difflib


def did_you_mean(name, known, *, shown=repr, otherwise="."):
    """The end of a sentence about an unknown name: "; did you mean 'patch'?", or `otherwise`.

    Args:
      name: what was given.
      known: the names that exist.
      shown: the text in the question for a known name.
      otherwise: the end of the sentence where no known name is near.
    """
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {shown(near[0])}?" if near else otherwise
