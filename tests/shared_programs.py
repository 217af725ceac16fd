"""Equal programs are built once in a process, for all tests that it runs.

Most of a tiny run's time is the tracing and compiling of programs that other tests have built
before. What a program depends on are the arguments of its `build`, so two builds with equal
arguments may share one. A test that changes the functions that are traced takes `anew`.
"""

import functools
import types

import numpy as np

from jax_seg.infer import network
from jax_seg.runs import members
from jax_seg.training import programs


def facts_of(value):
    """What a function, a container or a number is made of, as a key; equal ones do the same.

    Raises:
      TypeError: it is something else that cannot be a key.
    """
    if isinstance(value, functools.partial):
        return "partial", facts_of(value.func), facts_of(value.args), facts_of(value.keywords)
    if isinstance(value, types.FunctionType):
        enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__code__, facts_of((enclosed, value.__defaults__, value.__kwdefaults__))
    if isinstance(value, dict):
        return "dict", frozenset((name, facts_of(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(facts_of, value))
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    hash(value)
    return type(value), value


def once(build):
    """`build`, which returns what it has returned before for arguments with the same facts."""
    known = {}

    @functools.wraps(build)
    def built(*arguments, **options):
        try:
            key = facts_of((arguments, options))
        except TypeError:
            return build(*arguments, **options)
        if key not in known:
            known[key] = build(*arguments, **options)
        return known[key]

    return built


def share(monkeypatch):
    """Build programs once from now on."""
    make_network = once(network.make_network)
    for module in (network, members, programs):
        monkeypatch.setattr(module, "make_network", make_network)
    monkeypatch.setattr(programs, "build", once(programs.build))


def anew(monkeypatch):
    """Build programs of this test by themselves."""
    monkeypatch.setattr(programs, "build", programs.build.__wrapped__)
