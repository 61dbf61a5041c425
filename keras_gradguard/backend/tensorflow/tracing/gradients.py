"""Asks an op for its gradient."""

import collections

import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import pull_back
from keras_gradguard.backend.tensorflow.internals.graphs import (
    custom_gradient_name,
    handles_of,
    new_graph,
    runs_functions,
)
from keras_gradguard.graph.ops import carries_gradient

_probes = {}


def probe(op, position):
    """Asks TensorFlow which inputs of an op get a gradient from an output.

    The answer comes from the op's own gradient function, called in a
    scratch graph; the registry alone does not tell (`Round` is registered
    and returns None).

    Args:
        op: A `tf.Operation`; if it runs functions, they are not at hand.
        position: Index of the output.

    Returns:
        `(passes, error)`: a tuple of bools, one per input, and the text of
        the LookupError if no gradient is registered, else `None`.
    """
    output = op.outputs[position]
    closed = (False,) * len(op.inputs)
    if not carries_gradient(output.dtype):
        return closed, None
    if hasattr(op, "passes"):
        return op.passes(position)
    if runs_functions(op):
        # Its body is not at hand, and a probe would rewrite the op.
        return tuple(carries_gradient(t.dtype) for t in op.inputs), None
    if custom_gradient_name(op):
        return _ask(op, output)
    sides = (op.inputs, op.outputs)
    key = (op.type, position, *(tuple(t.dtype for t in s) for s in sides))
    if key not in _probes:
        _probes[key] = _ask(op, output)
    return _probes[key]


def _ask(op, output):
    sources = list(op.inputs)
    with op.graph.as_default():
        scratch = new_graph("gradguard_probe")
    with scratch.as_default():
        seed = tf.compat.v1.placeholder(output.dtype, output.shape)
        try:
            gradients = tf.gradients(
                [output], sources, grad_ys=[seed], stop_gradients=sources
            )
        except LookupError as error:
            return (False,) * len(sources), str(error)
        except Exception:  # noqa: BLE001
            # Not a cut that can be proved, so none that may be reported.
            return (True,) * len(sources), None
    return tuple(gradient is not None for gradient in gradients), None


# Their gradient functions take rows (`tf.IndexedSlices`) as they are.
_TAKES_ROWS = frozenset(("ReadVariableOp", "Identity", "Cast", "_copy"))


def pulled(op, incoming):
    """Returns the gradient of each input of an op.

    Args:
        op: A `RanOp`.
        incoming: The gradient of each output, `None` where there is none.
    """
    gradients = [
        _given(op, output, gradient)
        for output, gradient in zip(op.outputs, incoming, strict=True)
    ]
    if op.backward is not None:
        found = op.backward(*gradients)
        return found if isinstance(found, (list, tuple)) else [found]
    return pull_back(op.type, op.attributes, op.inputs, op.outputs, gradients)


def _given(op, output, gradient):
    """The gradient of an output as a gradient function expects it."""
    if gradient is None and output.dtype.is_floating:
        return tf.zeros_like(output)
    if op.type not in _TAKES_ROWS and gradient is not None:
        return tf.convert_to_tensor(gradient)
    return gradient


def variable_tensors(graph, variables):
    """Maps each variable to the tensors of `graph` that stand for it.

    Args:
        graph: A function graph.
        variables: Keras or TensorFlow variables.

    Returns:
        A list of lists, empty where the graph never touches the variable.
    """
    captured = collections.defaultdict(list)
    for outer, inner in graph.captures:
        captured[id(outer)].append(inner)
    return [
        [t for h in handles_of(v) for t in captured[id(h)]] for v in variables
    ]
