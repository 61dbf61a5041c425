"""Step 4: gradients of a loss that are not its slope, and whose fault it is."""

import inspect

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
from keras_gradguard.diagnosis.jumps import is_hidden
from keras_gradguard.diagnosis.slopes import NUM_ELEMENTS, mismatch
from keras_gradguard.graph.trace import LossFailed
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import op_place

_NUM_ELEMENTS = 64
_SMALL = 1e-3
_ADDS = {"AddV2": 1.0, "Add": 1.0, "AddN": 1.0, "Sub": -1.0}


def judged_gradient(call, dependent, is_double):
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


KINDS = {
    "wrong_gradient": "wrong",
    "identity": "wrong",
    "straight_through": "discontinuous",
}
# How many ops the comparison may take; a loss that runs many of them (a
# loop) is compared at fewer elements.
_MOST_OPS = 20_000
_FEW_ELEMENTS = 16
_BESIDE_NOTE = (
    "no op on the way is wrong by itself: a part of the value passes by the "
    "tape (NumPy, `.numpy()`, a variable)"
)


def wrong_findings(subject, name):
    """Compares the gradient of a loss with its slope.

    Args:
        subject: A `LossRun`.
        name: Name of the loss for the findings.

    Returns:
        A list of `Finding`s: gradients that are wrong (`"wrong_gradient"`),
        and those that are something else than the slope on purpose
        (`"straight_through"`, `"identity"`).
    """
    findings, users = {}, [call for call in subject.handmade if call.is_users]
    for call in users:
        key = (call.place.file, call.place.line)
        if key not in findings:
            found = judged_gradient(call, subject.dependent, subject.is_double)
            if found is not None:
                findings[key] = _finding(*found, call.place, name, _of(call))
    for op in straight_through(subject):
        place = op_place(op)
        if place.line is not None:
            findings.setdefault(
                (place.file, place.line),
                Finding(
                    kind=KINDS["straight_through"],
                    place=place,
                    op=op.type,
                    loss=name,
                    cause="straight_through",
                ),
            )
    is_explained = any(f.cause == "wrong_gradient" for f in findings.values())
    if not users and not is_explained:
        findings.update(_of_the_whole(subject, name))
    return list(findings.values())


def _of_the_whole(subject, name):
    """Compares the whole loss, with what is stopped held still."""

    def values(prediction):
        try:
            return subject.run(prediction, forced=subject.base.stopped).values
        except LossFailed:
            return None

    elements = max(_FEW_ELEMENTS, _MOST_OPS // len(subject.recording.ops))
    found = mismatch(
        values,
        subject.start,
        subject.gradients,
        subject.is_double,
        min(NUM_ELEMENTS, elements),
    )
    if found is None:
        return {}
    for op in subject.recording.ops:
        of_op = _of_op(subject, op)
        if of_op is not None:
            place = op_place(op)
            cause = "straight_through" if of_op.is_flat else "wrong_gradient"
            key = (place.file, place.line)
            return {key: _finding(cause, of_op, place, name, op=op.type)}
    notes = (_BESIDE_NOTE,)
    return {None: _finding("wrong_gradient", found, Place(), name, notes=notes)}


def _of_op(subject, op):
    """The `Mismatch` of one op alone, run again by itself."""
    places = [
        n
        for n, tensor in enumerate(op.inputs)
        if id(tensor) in subject.dependent and tensor.dtype.is_floating
    ]
    function = getattr(tf.raw_ops, op.type, None)
    if not places or function is None or is_hidden(op):
        return None
    named = dict(zip(op.attributes[::2], op.attributes[1::2], strict=True))
    known = inspect.signature(function).parameters
    named = {key: value for key, value in named.items() if key in known}
    inputs = [key for key in known if key not in named and key != "name"]
    if len(inputs) != len(op.inputs):
        return None

    def result(parts):
        tensors = list(op.inputs)
        for n, part in zip(places, parts, strict=True):
            tensors[n] = tf.convert_to_tensor(part, tensors[n].dtype)
        out = function(**dict(zip(inputs, tensors, strict=True)), **named)
        return tf.nest.flatten(out)[0]

    def values(parts):
        return result(parts).numpy().ravel()

    start = [op.inputs[n].numpy() for n in places]
    if not op.outputs or not op.outputs[0].dtype.is_floating:
        return None
    try:
        with tf.GradientTape() as tape:
            parts = [tf.constant(part) for part in start]
            tape.watch(parts)
            out = result(parts)
        gradients = tape.gradient(out, parts)
    except (LookupError, TypeError, ValueError, tf.errors.OpError):
        # Not an op that can be run by itself: it is not accused.
        return None
    if all(gradient is None for gradient in gradients):
        return None
    gradients = [
        g if g is None else tf.convert_to_tensor(g).numpy() for g in gradients
    ]
    return mismatch(values, start, gradients, subject.is_double, 64)


def _of(call):
    """Where the function of a hand-written gradient begins."""
    code = getattr(call.function, "__code__", None)
    if code is None:
        return ()
    name, line = code.co_name, code.co_firstlineno
    return (f"`{name}` and its gradient are written from line {line} on",)


def _finding(cause, found, place, name, notes=(), op=None):
    evidence = {
        "autodiff": found.automatic,
        "difference": found.difference,
        "num_wrong": found.num_wrong,
        "num_compared": found.num_compared,
    }
    if found.element is not None:
        evidence = {"element": list(found.element), **evidence}
    return Finding(
        kind=KINDS[cause],
        place=place,
        op=op,
        loss=name,
        cause=cause,
        notes=notes,
        evidence=evidence,
    )
