"""Step 4: gradients that somebody wrote by hand: wrong, or so on purpose."""

import contextlib
import dataclasses
import sys

import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis import eager_internals, source
from keras_gradguard.diagnosis.observer import tensors_of
from keras_gradguard.diagnosis.slopes import mismatch
from keras_gradguard.finding import Place

_NUM_ELEMENTS = 64
_SMALL = 1e-3
_ADDS = {"AddV2": 1.0, "Add": 1.0, "AddN": 1.0, "Sub": -1.0}


@dataclasses.dataclass(frozen=True)
class HandMade:
    """One call of a function that brings its own gradient.

    Args:
        function: What `tf.custom_gradient` was put on.
        arguments: What it was called with.
        named: What it was called with by name.
        place: The user's line that called it.
    """

    function: object
    arguments: tuple
    named: dict
    place: Place

    @property
    def is_users(self):
        """Whether the function is the user's own."""
        code = getattr(self.function, "__code__", None)
        return code is None or source.is_users(code.co_filename)


@contextlib.contextmanager
def handmade_seen(calls):
    """Appends a `HandMade` to `calls` for each that runs eagerly."""

    def see(frame, event, _):
        if event == "call" and frame.f_code is eager_internals.CUSTOM_GRADIENT:
            here = frame.f_locals
            place = source.user_place(_frames(frame))
            calls.append(
                HandMade(here["f"], here["args"], here["kwargs"], place)
            )

    before = sys.gettrace()
    sys.settrace(see)
    try:
        yield
    finally:
        sys.settrace(before)


def _frames(frame):
    frames = []
    while frame is not None:
        code = frame.f_code
        frames.append((code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return frames[::-1]


def judged(call, dependent, is_double):
    """Compares a hand-written gradient with the slope of its function.

    Args:
        call: A `HandMade`.
        dependent: The ids of the tensors that the prediction made.
        is_double: Whether it computes in float64.

    Returns:
        `(cause, Mismatch)`, or `None` if the two agree. The cause is
        `"wrong_gradient"`, `"straight_through"` if the values are piecewise
        constant, `"identity"` if the function returns what it got.
    """
    flat = tf.nest.flatten((call.arguments, call.named))
    places = [
        n
        for n, value in enumerate(flat)
        if id(value) in dependent and value.dtype.is_floating
    ]
    start = [flat[n].numpy() for n in places]
    if not start:
        return None

    def results(arrays, function=call.function):
        moved = list(flat)
        for n, array in zip(places, arrays, strict=True):
            moved[n] = tf.convert_to_tensor(array, flat[n].dtype)
        arguments, named = tf.nest.pack_sequence_as(
            (call.arguments, call.named), moved
        )
        return [moved[n] for n in places], function(*arguments, **named)

    gradient = tf.custom_gradient(call.function)
    for seed in (None, 0):
        found = _compared(results, gradient, start, seed, is_double)
        if found is not None:
            break
    if found is None:
        return None
    if found.is_flat:
        return "straight_through", found
    out = tensors_of(results(start)[1][0])
    if any(np.array_equal(o, s) for o in out for s in start):
        return "identity", found
    return "wrong_gradient", found


def _compared(results, gradient, start, seed, is_double):
    """The `Mismatch` of a weighed sum of a function's outputs."""

    def values(arrays):
        try:
            out = tensors_of(results(arrays)[1][0])
        except Exception:  # noqa: BLE001
            # A function need not take every value.
            return None
        return np.concatenate(
            [np.ravel(w * o.numpy()) for w, o in zip(weights, out, strict=True)]
        )

    with tf.GradientTape() as tape:
        inputs = [tf.convert_to_tensor(part) for part in start]
        tape.watch(inputs)
        _, out = results(inputs, gradient)
    out = [t for t in tensors_of(out) if t.dtype.is_floating]
    weights = [np.ones(o.shape) for o in out]
    if seed is not None:
        random = np.random.default_rng(seed)
        weights = [random.uniform(0.5, 1.5, o.shape) for o in out]
    # Whoever clips what comes in does so on purpose: nothing large comes in.
    seeds = [
        tf.constant(_SMALL * w, o.dtype)
        for w, o in zip(weights, out, strict=True)
    ]
    gradients = tape.gradient(out, inputs, output_gradients=seeds)
    if all(g is None for g in gradients):
        return None
    gradients = [
        None if g is None else tf.convert_to_tensor(g).numpy() / _SMALL
        for g in gradients
    ]
    return mismatch(values, start, gradients, is_double, _NUM_ELEMENTS)


def straight_through(subject):
    """Yields the `StopGradient` ops that make a straight-through estimator.

    Their input takes away what is added to them: in `x + stop_gradient(f(x)
    - x)` nothing but `f(x)` is left of the values, and `x` of the gradient.

    Args:
        subject: A `LossRun`.
    """
    users = {}
    for op in subject.recording.ops:
        for tensor in op.inputs:
            users.setdefault(id(tensor), []).append(op)
    for op in subject.recording.ops:
        if (
            op.type != "StopGradient"
            or id(op.inputs[0]) not in subject.dependent
        ):
            continue
        for user in users.get(id(op.outputs[0]), ()):
            if user.type in _ADDS and len(user.inputs) == 2:
                first, second = user.inputs
                other = second if first is op.outputs[0] else first
                if _cancels(subject, op.inputs[0], other, _ADDS[user.type]):
                    yield op
                    break


def _cancels(subject, stopped, other, sign):
    try:
        kept = subject.tape.gradient(other, subject.tensors)
        lost = subject.tape.gradient(stopped, subject.tensors)
    except LookupError:
        return False
    is_moving = False
    for one, two in zip(kept, lost, strict=True):
        one, two = (
            0.0 if g is None else tf.convert_to_tensor(g).numpy()
            for g in (one, two)
        )
        is_moving = is_moving or bool(np.any(one))
        if not np.allclose(one, -sign * two):
            return False
    return is_moving
