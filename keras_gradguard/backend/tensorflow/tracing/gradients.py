"""Asks TensorFlow about the gradient of one op."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import (
    no_tape,
    pull_back,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    custom_gradient_function,
    custom_gradient_name,
    new_graph,
    runs_functions,
)
from keras_gradguard.backend.tensorflow.internals.variables import (
    frames_to_stand_in,
)
from keras_gradguard.graph.ops import is_constant
from keras_gradguard.source.frames import gradient_function, is_own_fault

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
        `(passes, error, zeros)`: a tuple of bools, one per input; the text
        of the LookupError if no gradient is registered, else `None`; and
        the numbers of the inputs whose gradient is zero whatever comes in.
    """
    output = op.outputs[position]
    if not _carries(output.dtype):
        return (False,) * len(op.inputs), None, ()
    if runs_functions(op):
        # Its body is unknown here, and a probe would rewrite the op.
        return tuple(_carries(t.dtype) for t in op.inputs), None, ()
    if custom_gradient_name(op):
        return _ask(op, output)
    sides = (op.inputs, op.outputs)
    key = (op.type, position, *(tuple(t.dtype for t in s) for s in sides))
    if key not in _probes:
        _probes[key] = _ask(op, output)
    return _probes[key]


def _carries(dtype):
    opaque = (tf.resource, tf.variant)
    return dtype.is_floating or dtype.is_complex or dtype in opaque


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
            return (False,) * len(sources), str(error), ()
        except Exception as error:
            if is_own_fault(error):
                raise
            # Not a cut that can be proved, so none that may be reported.
            return (True,) * len(sources), None, ()
    passes = tuple(gradient is not None for gradient in gradients)
    return passes, None, _without(seed, gradients)


def _without(seed, gradients):
    """Numbers of the gradients that were computed without the incoming one.

    A gradient is linear in the incoming one, so these are zero.
    """
    return tuple(
        number
        for number, gradient in enumerate(gradients)
        if isinstance(gradient, tf.Tensor)
        and _carries(gradient.dtype)
        and not _is_made_of(gradient, seed)
    )


def _is_made_of(tensor, source):
    stack, seen = [tensor.op], set()
    while stack:
        op = stack.pop()
        if op is source.op:
            return True
        if op not in seen:
            seen.add(op)
            stack += [t.op for t in op.inputs] + list(op.control_inputs)
    return False


def _closed(op, passes, zeros):
    """What passes, without the inputs whose gradient is always zero.

    An op that computes a gradient is left as it is: that a second derivative
    is zero, as that of a ReLU, takes nothing from the first.
    """
    if not zeros or gradient_function(op.frames) is not None:
        return passes
    return tuple(
        is_open and number not in zeros for number, is_open in enumerate(passes)
    )


def _finds_length(op, position):
    """Whether constants of known shapes leave the shape of an op unknown."""
    with op.graph.as_default():
        scratch = new_graph("gradguard_lengths")
    with scratch.as_default():
        inputs = [_constant(source) for source in op.inputs]
        try:
            made = scratch.create_op(
                op.type,
                inputs,
                [output.dtype for output in op.outputs],
                attrs=dict(op.node_def.attr),
            )
        except (ValueError, TypeError, tf.errors.OpError):
            # They do not fit each other, which says nothing.
            return False
    return not made.outputs[position].shape.is_fully_defined()


def _constant(source):
    """What is known of a tensor as a constant; unknown lengths are 1."""
    value = tf.get_static_value(source)
    if value is not None:
        return tf.constant(value, source.dtype)
    shape = [1 if n is None else n for n in source.shape.as_list()]
    return tf.cast(tf.fill(shape, 1), source.dtype)


class TracedOracle:
    """Asks of the ops of a function graph, see `graph.ops.Graph`."""

    def passes(self, op, index):
        """Returns which inputs get a gradient, see `probe`."""
        passes, error, zeros = probe(op.native, index)
        return _closed(op, passes, zeros), error

    def gives_zeros(self, op, index):
        """Returns whether an op has a gradient that is always zero."""
        return bool(probe(op.native, index)[2])

    def finds_length(self, op, index):
        """Returns whether a shape hangs on values."""
        return _finds_length(op.native, index)

    def frames_to_stand_in(self, op):
        """Returns the frames to the stand-in for a weight, else none."""
        return frames_to_stand_in(op.frames)

    def own_gradient(self, op):
        """Returns the function of an op's custom gradient, or `None`."""
        return custom_gradient_function(op.native)

    def constant(self, tensor):
        """Returns the array of a constant, `None` for all else."""
        return tf.get_static_value(tensor.native)

    def array(self, value, dense=False):
        """Returns `None`: no op of it has run."""
        del value, dense


@dataclasses.dataclass
class Ran:
    """One op that ran, as TensorFlow takes it to pull a gradient back.

    Args:
        type: Type of the op, or the name of a custom gradient's function.
        attributes: Names and values in turns.
        inputs: Eager tensors that went in.
        outputs: Eager tensors that came out.
        backward: The gradient function that the user gave, or `None` for
            the registered one.
        body: The graph of the `tf.function` that ran, `None` otherwise.
    """

    type: str
    attributes: tuple
    inputs: tuple
    outputs: tuple
    backward: object = None
    body: object = None


# Their gradient functions take rows (`tf.IndexedSlices`) as they are.
_TAKES_ROWS = frozenset(("ReadVariableOp", "Identity", "Cast", "_copy"))


def _pulled(ran, incoming):
    """Returns the gradient of each input of an op.

    Args:
        ran: A `Ran`.
        incoming: The gradient of each output, `None` where there is none.
    """
    gradients = [
        _given(ran, output, gradient)
        for output, gradient in zip(ran.outputs, incoming, strict=True)
    ]
    if ran.backward is not None:
        found = ran.backward(*gradients)
        return found if isinstance(found, (list, tuple)) else [found]
    return pull_back(
        ran.type, ran.attributes, ran.inputs, ran.outputs, gradients
    )


def _given(ran, output, gradient):
    """The gradient of an output as a gradient function expects it."""
    if gradient is None and output.dtype.is_floating:
        return tf.zeros_like(output)
    if ran.type not in _TAKES_ROWS and gradient is not None:
        return tf.convert_to_tensor(gradient)
    return gradient


def _pulled_by_xla(ran, incoming):
    """The gradient of an op, as XLA compiles it."""
    if ran.backward is not None or not any(
        isinstance(t, tf.Tensor) and t.dtype.is_floating for t in ran.inputs
    ):
        return _pulled(ran, incoming)
    known = dataclasses.replace

    @tf.function(jit_compile=True, autograph=False)
    def compiled(inputs, outputs, gradients):
        return _pulled(known(ran, inputs=inputs, outputs=outputs), gradients)

    return compiled(ran.inputs, ran.outputs, tuple(incoming))


def _zeros(ran, incoming, index):
    """Numbers of the inputs whose gradient is zero whatever comes in."""
    seed = incoming[index]
    with new_graph("gradguard_probe").as_default():
        given = tf.compat.v1.placeholder(seed.dtype, seed.shape)
        incoming = [given if g is seed else g for g in incoming]
        try:
            return _without(given, _pulled(ran, incoming))
        except Exception as error:
            if is_own_fault(error):
                raise
            # Python code that wants numbers, say: nothing is proved.
            return ()


# No derivative that is finite makes Inf of it, not even in float16.
_SMALL = 1e-3


def with_finite(tensor, value):
    """Returns a tensor with a number in place of what is not finite.

    Args:
        tensor: An eager tensor; one without floats is returned as it is.
        value: The number.
    """
    if not isinstance(tensor, tf.Tensor) or not tensor.dtype.is_floating:
        return tensor
    other = tf.cast(value, tensor.dtype)
    return tf.where(tf.math.is_finite(tensor), tensor, other)


class RecordedOracle:
    """Asks of ops that ran eagerly, see `graph.ops.Graph`."""

    def __init__(self):
        self._answers = {}

    def passes(self, op, index):
        """Returns which inputs get a gradient from an output."""
        passes, error, zeros = self._answer(op, index)
        return _closed(op, passes, zeros), error

    def gives_zeros(self, op, index):
        """Returns whether an op has a gradient that is always zero."""
        return bool(self._answer(op, index)[2])

    def _answer(self, op, index):
        if op.type.startswith("__"):
            # The body of a function that is unknown here.
            return (True,) * len(op.inputs), None, ()
        sides = (op.inputs, op.outputs)
        key = (op.type, index, *(tuple(t.dtype for t in s) for s in sides))
        if op.has_own_gradient:
            key = (op.name, index)
        if key not in self._answers:
            self._answers[key] = self._ask(op, index)
        return self._answers[key]

    def _ask(self, op, index):
        incoming = [
            tf.ones_like(tensor) if number == index else None
            for number, tensor in enumerate(op.native.outputs)
        ]
        try:
            with no_tape():
                outgoing = list(_pulled(op.native, incoming))
        except LookupError as error:
            return (False,) * len(op.inputs), str(error), ()
        except Exception as error:
            if is_own_fault(error):
                raise
            # Not a cut that can be proved, so none that may be reported.
            return (True,) * len(op.inputs), None, ()
        outgoing += [None] * (len(op.inputs) - len(outgoing))
        passes = tuple(g is not None for g in outgoing[: len(op.inputs)])
        is_any = any(
            isinstance(g, tf.Tensor) and not np.any(g) for g in outgoing
        )
        zeros = _zeros(op.native, incoming, index) if is_any else ()
        return passes, None, zeros

    def finds_length(self, op, index):
        """Returns `False`: the shape of a tensor that is there is known."""
        del op, index
        return False

    def frames_to_stand_in(self, op):
        """Returns the frames to the stand-in for a weight, else none."""
        return frames_to_stand_in(op.frames)

    def own_gradient(self, op):
        """Returns the function of an op's custom gradient, or `None`."""
        return getattr(op.native, "backward", None)

    def constant(self, tensor):
        """Returns the array of what no op has made, `None` for all else."""
        return self.array(tensor.native) if tensor.op.number < 0 else None

    def pull(self, op, incoming, compiled=False):
        """Returns the gradient of each input of an op.

        `None` if it has no gradient function, or that fails here: one of the
        user's may raise anything.
        """
        if is_constant(op):
            return [tf.zeros_like(tensor) for tensor in op.native.inputs]
        pulled = _pulled_by_xla if compiled else _pulled
        try:
            return pulled(op.native, incoming)
        except Exception as error:
            if is_own_fault(error):
                raise
            return None

    def seed(self, tensor):
        """Returns the ones that the gradient of a loss begins with."""
        return tf.ones_like(tensor.native)

    def total(self, gradients):
        """Adds up gradients of one tensor; rows stay rows."""
        if all(map(self.is_rows, gradients)):
            return tf.IndexedSlices(
                tf.concat([g.values for g in gradients], 0),
                tf.concat([g.indices for g in gradients], 0),
                gradients[0].dense_shape,
            )
        return tf.add_n([tf.convert_to_tensor(g) for g in gradients])

    def with_finite(self, gradient):
        """Returns a gradient with small numbers where it is not finite."""
        if self.is_rows(gradient):
            values = self.with_finite(gradient.values)
            return tf.IndexedSlices(
                values, gradient.indices, gradient.dense_shape
            )
        return with_finite(gradient, _SMALL)

    def is_rows(self, gradient):
        """Returns whether a gradient is one of a few rows."""
        return isinstance(gradient, tf.IndexedSlices)

    def array(self, value, dense=False):
        """Returns the numbers of a tensor or gradient, else `None`."""
        if self.is_rows(value):
            value = tf.convert_to_tensor(value) if dense else value.values
        if not isinstance(value, tf.Tensor) or not hasattr(value, "numpy"):
            return None
        if not (value.dtype.is_floating or value.dtype.is_complex):
            return None
        return np.asarray(value.numpy())
