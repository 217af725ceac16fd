"""A network as ONNX, by jax2onnx, with the program of an accelerator: plain convolutions.

jax2onnx does not know three things of these networks: the choice by platform, of a convolution and
of the last layer, which is resolved before it sees the program; stacks, which are made of
concatenations; and convolutions of volumes, which it is taught here.
"""

import importlib.util
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

CONVOLUTION = core.Primitive("convolution_of_volumes")
"""`lax.conv_general_dilated` in the layout of ONNX: channels first, kernel [K, C, D, H, W]."""


@CONVOLUTION.def_abstract_eval
def _shape(x, kernel, **options):
    arrays = (jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (x, kernel))
    made = jax.eval_shape(lambda *pair: jax.lax.conv_general_dilated(*pair, **options), *arrays)
    return jax.core.ShapedArray(made.shape, made.dtype)


INLINED = {"jit": "jaxpr", "remat2": "jaxpr", "custom_vjp_call": "call_jaxpr"}
TOLERANCE = 1e-4
"""How far probabilities may lie from those of the network."""


def require_installed():
    """ValueError unless the packages of the extra 'onnx' are there."""
    for name in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--onnx needs {name}, which is not installed: pip install 'jax-seg[onnx]'."
            )


def write(path, function, inputs, outputs, mark):
    """Write a function as an ONNX file, after a comparison of both by onnxruntime.

    Args:
      path: of the file.
      function: arrays -> tuple of arrays; the weights that it holds become part of the file.
      inputs: {name: an array to compare with}, in the order of its arguments.
      outputs: names of what it returns; the first is compared.
      mark: of `outputs.written_by`.

    Raises:
      ValueError: jax2onnx has no operator for a part of the function, or the results differ.
    """
    try:
        model = convert(function, inputs, outputs)
    except NotImplementedError as error:
        raise ValueError(f"jax2onnx cannot carry this network ({error}): remove --onnx.") from error
    model.doc_string = mark
    content = model.SerializeToString()
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), inputs)[0]
    difference = float(np.abs(found - function(*inputs.values())[0]).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"The probabilities of the ONNX file differ from the network's by {difference:.2g}, "
            f"more than {TOLERANCE:g}: remove --onnx."
        )
    path.write_bytes(content)


def convert(function, inputs, outputs):
    """A function as an ONNX model.

    Args:
      function, outputs: of `write`.
      inputs: {name: array or its ShapeDtypeStruct}, in the order of its arguments.

    Returns:
      `onnx.ModelProto`.

    Raises:
      NotImplementedError: jax2onnx has no operator for a part of the function, which it names.
    """
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # of plugins for other programs
    import jax2onnx

    _teach()
    shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in inputs.values()]
    closed = jax.make_jaxpr(function)(*shapes)
    return jax2onnx.to_onnx(
        lambda *arrays: tuple(_evaluate(closed, arrays)),
        shapes,
        model_name="jax_seg",
        input_names=list(inputs),
        output_names=list(outputs),
    )


def _evaluate(closed, arrays):
    """The results of a traced function, its choices by platform made for any but a CPU."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, arrays, strict=True)

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation, arrays):
    """The results of one operation."""
    primitive, options = equation.primitive, equation.params
    if primitive.name == "platform_index":
        return [np.int32(0)]  # not read: see the next line
    if platforms := options.get("branches_platforms"):
        return _evaluate(options["branches"][platforms.index(None)], arrays[1:])
    if primitive.name in INLINED:
        inner = options[INLINED[primitive.name]]
        closed = core.ClosedJaxpr(inner, ()) if isinstance(inner, core.Jaxpr) else inner
        return _evaluate(closed, arrays)
    if primitive.name == "stack":
        axis = options["axis"]
        return [jnp.concatenate([jnp.expand_dims(one, axis) for one in arrays], axis)]
    if primitive.name == "unstack":
        (whole,), axis = arrays, options["axis"]
        parts = range(whole.shape[axis])
        return [jax.lax.index_in_dim(whole, number, axis, keepdims=False) for number in parts]
    if primitive.name == "conv_general_dilated" and arrays[0].ndim == 5:
        return [_convolve(*arrays, **options)]
    results = primitive.bind(*arrays, **primitive.get_bind_params(options))
    return results if primitive.multiple_results else [results]


def _convolve(x, kernel, *, dimension_numbers, **options):
    of_x, of_kernel, of_result = dimension_numbers
    names = ("window_strides", "padding", "rhs_dilation", "feature_group_count")
    result = CONVOLUTION.bind(
        jnp.transpose(x, of_x),
        jnp.transpose(kernel, of_kernel),
        **{name: options[name] for name in names},
    )
    return jnp.transpose(result, np.argsort(of_result))


def _teach():
    """Register how jax2onnx writes CONVOLUTION."""
    import onnx_ir
    from jax2onnx.plugins import plugin_system

    @plugin_system.register_primitive(jaxpr_primitive=CONVOLUTION.name)
    class _Convolution(plugin_system.PrimitiveLeafPlugin):
        def lower(self, ctx, eqn):
            result = ctx.builder.Conv(
                *map(ctx.get_value_for_var, eqn.invars),
                _outputs=[ctx.fresh_name("convolution")],
                strides=list(eqn.params["window_strides"]),
                pads=np.transpose(eqn.params["padding"]).ravel().tolist(),
                dilations=list(eqn.params["rhs_dilation"]),
                group=eqn.params["feature_group_count"],
            )
            result.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
            result.shape = onnx_ir.Shape(eqn.outvars[0].aval.shape)
            ctx.bind_value_for_var(eqn.outvars[0], result)
