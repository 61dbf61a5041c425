"""Step 4: gradients of a loss that are not its slope, and whose fault it is."""

import inspect

import tensorflow as tf

from keras_gradguard.diagnosis import source
from keras_gradguard.diagnosis.handmade import judged, straight_through
from keras_gradguard.diagnosis.jumps import is_hidden
from keras_gradguard.diagnosis.lossrun import LossFailed
from keras_gradguard.diagnosis.slopes import NUM_ELEMENTS, mismatch
from keras_gradguard.finding import Finding, Place

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
            found = judged(call, subject.dependent, subject.is_double)
            if found is not None:
                findings[key] = _finding(*found, call.place, name, _of(call))
    for op in straight_through(subject):
        place = source.op_place(op)
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
            place = source.op_place(op)
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
