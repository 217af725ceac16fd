"""Read what a compiled GPU program does from its text: kernels, their bytes and operations."""

import math
import re
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}
NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
MOVING = {"bitcast", "broadcast", "copy", "reduce", "reshape"}  # they may change the axes
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")


class Kernel(NamedTuple):
    """A kernel that the program launches.

    Attributes:
      name: in the text.
      kind: 'convolution', 'matrix product', 'transpose or copy', 'concatenation', 'reduction' or
        'elementwise'.
      traffic: bytes of its operands and results, times its calls.
      operations: multiplications and additions of convolutions and matrix products, times its
        calls; else 0.
      wide: bytes of its float32 operands and results, times its calls.
      calls: how often it runs.
      source: the operation of the program that it comes from.
      layout: 'dim_labels' of a convolution, else ''.
      type: of its first result, as 'bf16'.
    """

    name: str
    kind: str
    traffic: int
    operations: int
    wide: int
    calls: int
    source: str
    layout: str
    type: str


def kernels(text):
    """List of `Kernel` of a program's text, those of loops counted as often as they run."""
    computations, entry = _computations(text)
    return _of_computation(computations, entry, 1)


def shape_bytes(text, only=""):
    """Bytes of all shapes in a text, 'bf16[2,3]' or a tuple of them; only those of a type."""
    return sum(
        BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(","))))
        for kind, sizes in _SHAPE.findall(text)
        if only in ("", kind)
    )


def _computations(text):
    """({name: [(name, result, opcode, rest of the line)]}, name of the entry)."""
    found, entry, current = {}, None, None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (match := _LINE.match(line)):
            current.append(match.groups())
    return found, entry


def _of_computation(computations, name, times):
    lines = computations[name]
    results = {line[0]: line[1] for line in lines}
    found = []
    for name, result, opcode, rest in lines:
        if opcode in NO_KERNEL:
            continue
        if opcode in ("while", "conditional", "call"):
            for body, count in _inner(computations, rest, opcode):
                found += _of_computation(computations, body, times * count)
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("metadata=")[0].split("calls=")[0])
        read = [
            (results[one], _read(computations, rest, number, results[one]))
            for number, one in enumerate(operands)
            if one in results
        ]
        written = _written(computations, rest, result)
        kind = _kind(name, opcode, rest, _fused(computations, rest))
        wide = min(written, shape_bytes(result, "f32"))
        wide += sum(size for shape, size in read if shape.startswith("f32"))
        source = re.search(r'op_name="([^"]*)"', rest)
        layout = re.search(r"dim_labels=(\w+)", rest)
        found.append(
            Kernel(
                name,
                kind,
                times * (sum(size for _, size in read) + written),
                times * _operations(computations, result, opcode, rest, results, operands),
                times * wide,
                times,
                source[1] if source else "",
                layout[1] if layout and kind == "convolution" else "",
                _SHAPE.search(result)[1] if _SHAPE.search(result) else "",
            )
        )
    return found


def _read(computations, rest, number, shape):
    """Bytes that a kernel reads of an operand: of one that is only sliced, those of the slices."""
    lines = _fused(computations, rest)
    start = f"{number})"
    parameter = [
        name
        for name, _, opcode, inner in lines
        if opcode == "parameter" and inner.startswith(start)
    ]
    slices = _slices(lines, parameter[0]) if parameter else None
    if slices is None:
        return shape_bytes(shape)
    whole = math.prod(_sizes(shape))
    return shape_bytes(shape) * sum(math.prod(_sizes(one)) for one in slices) // whole


def _written(computations, rest, result):
    """Bytes that a kernel writes: of a result that is updated in place, those of the update."""
    lines = _fused(computations, rest)
    if lines and lines[-1][2] == "dynamic-update-slice":
        results = {line[0]: line[1] for line in lines}
        _, update, *_ = re.findall(r"%([\w.\-]+)", lines[-1][3])
        return shape_bytes(results[update])
    return shape_bytes(result)


def _fused(computations, rest):
    """The lines of the computation that a fusion calls; () of another kernel."""
    fused = re.search(r"calls=%?([\w.\-]+)", rest)
    return computations.get(fused[1], ()) if fused else ()


def _slices(lines, name):
    """Results of the slices through which alone a value is used; None where it is used as it is.

    A value that is updated in place is not read.
    """
    found = []
    for user, result, opcode, inner in lines:
        operands = re.findall(r"%([\w.\-]+)", inner.split("metadata=")[0])
        if name not in operands:
            continue
        one = None
        if opcode in ("slice", "dynamic-slice"):
            one = [result]
        elif opcode in ("convert", "bitcast"):
            one = _slices(lines, user)
        elif opcode == "dynamic-update-slice" and name not in operands[1:]:
            one = []
        if one is None:
            return None
        found += one
    return found


def _inner(computations, rest, opcode):
    """[(computation, how often it runs)]: of branches the one with most traffic."""
    if opcode == "while":
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
        return [(re.search(r"body=%?([\w.\-]+)", rest)[1], int(trips[1]) if trips else 1)]
    if opcode == "call":
        return [(re.search(r"to_apply=%?([\w.\-]+)", rest)[1], 1)]
    branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
    names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
    names += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", rest)
    cost = {n: sum(k.traffic for k in _of_computation(computations, n, 1)) for n in names}
    return [(max(cost, key=cost.get), 1)] if cost else []


def _kind(name, opcode, rest, lines):
    if "__cudnn$conv" in rest or opcode == "convolution":
        return "convolution"
    if "gemm" in name or "__cublas" in rest or opcode == "dot":
        return "matrix product"
    named = opcode in ("copy", "transpose") or re.match(r"\w*(transpose|copy)", name)
    if named and not _cancel(lines):
        return "transpose or copy"
    if "concatenate" in name:
        return "concatenation"
    return "reduction" if "reduce" in name else "elementwise"


def _cancel(lines):
    """Whether the transpositions of a fused computation undo each other on every way through it."""
    if "transpose" not in (opcode for _, _, opcode, _ in lines):
        return False
    axes = {}  # of each value, those of the operands that it came from
    for name, result, opcode, rest in lines:
        order = tuple(range(len(_sizes(result))))
        before = {axes[one] for one in re.findall(r"%([\w.\-]+)", rest) if one in axes}
        if opcode == "parameter":
            axes[name] = order
        elif opcode == "tuple":
            return before <= {tuple(range(len(one))) for one in before}
        elif (before and opcode in MOVING) or len(before) > 1:
            return False
        elif before:
            (found,) = before
            moved = re.search(r"dimensions=\{([\d,]+)\}", rest) if opcode == "transpose" else None
            axes[name] = tuple(found[n] for n in _integers(moved[1])) if moved else found
    return axes.get(lines[-1][0]) == order


def _operations(computations, result, opcode, rest, results, operands):
    """Of a convolution in its direct form, or of a matrix product; 0 for other kernels."""
    if opcode == "dot" or "__cublas" in rest:
        return _of_product(result, rest, results)
    if "__cudnn$conv" not in rest:
        lines = _fused(computations, rest)
        inside = {line[0]: line[1] for line in lines}
        return sum(
            _of_product(shape, inner, inside) for _, shape, op, inner in lines if op == "dot"
        )
    shapes = [_sizes(results[one]) for one in operands if one in results][:2]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    if len(shapes) < 2 or not labels:
        return 0
    spatial = math.prod(map(int, re.search(r"size=([\dx]+)", rest)[1].split("x")))
    if "Forward" in rest:
        return 2 * math.prod(_sizes(result)) * spatial * shapes[1][labels[2].index("i")]
    if "BackwardInput" in rest:  # the first operand is the gradient of the result
        return 2 * math.prod(shapes[0]) * spatial * _sizes(result)[labels[1].index("f")]
    # Of a kernel's gradient: every weight meets the gradient of every voxel of the result, which is
    # the second operand.
    voxels = math.prod(shapes[1]) // shapes[1][labels[3].index("f")]
    return 2 * voxels * math.prod(_sizes(result))


def _of_product(result, rest, results):
    """Operations of a matrix product: two for each result and each contracted entry."""
    first = re.search(r"%([\w.\-]+)", rest)[1]
    axes = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]+)', rest)
    if not axes:  # an outer product, or another call of that library
        return 2 * math.prod(_sizes(result))
    sizes = _sizes(results[first])
    contracted = math.prod(sizes[axis] for axis in _integers(axes[1]))
    return 2 * math.prod(_sizes(result)) * contracted


def _sizes(text):
    return _integers(_SHAPE.search(text)[2])


def _integers(text):
    return [int(digits) for digits in re.findall(r"\d+", text)]
