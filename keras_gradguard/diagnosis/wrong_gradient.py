"""Gradients of a loss that are not its slope, and whose fault it is."""

import numpy as np

from keras_gradguard.diagnosis.slopes import NUM_ELEMENTS, mismatch
from keras_gradguard.graph.trace import LossFailed
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.frames import op_place

_NUM_ELEMENTS = 64
_ADDS = {"AddV2": 1.0, "Add": 1.0, "AddN": 1.0, "Sub": -1.0}


def judged_gradient(call, subject):
    """Compares a hand-written gradient with the slope of its function.

    Args:
        call: One of `LossRun.handmade`.
        subject: The `LossRun`.

    Returns:
        `(cause, Mismatch)`, or `None` if the two agree. The cause is
        `"wrong_gradient"`, `"straight_through"` if the values are piecewise
        constant, `"identity"` if the function returns what it got.
    """
    alone = call.alone(subject.is_dependent)
    if alone is None:
        return None
    for seed in (None, 0):
        found = _compared(alone, seed, subject.is_double)
        if found is not None:
            break
    if found is None:
        return None
    if found.is_flat:
        return "straight_through", found
    out = alone.outputs(alone.start)
    if any(np.array_equal(o, s) for o in out for s in alone.start):
        return "identity", found
    return "wrong_gradient", found


def _compared(alone, seed, is_double):
    """The `Mismatch` of a weighed sum of a function's outputs."""
    random = None if seed is None else np.random.default_rng(seed)

    def weigh(shape):
        return np.ones(shape) if random is None else _between(random, shape)

    weights, gradients = alone.gradients(weigh)
    if all(gradient is None for gradient in gradients):
        return None

    def values(arrays):
        try:
            out = alone.outputs(arrays)
        except Exception:  # noqa: BLE001
            # A function need not take every value.
            return None
        pairs = zip(weights, out, strict=True)
        return np.concatenate([np.ravel(w * o) for w, o in pairs])

    return mismatch(values, alone.start, gradients, is_double, _NUM_ELEMENTS)


def _between(random, shape):
    return random.uniform(0.5, 1.5, shape)


def straight_through(subject):
    """Yields the `StopGradient` ops that make a straight-through estimator.

    Their input takes away what is added to them: in `x + stop_gradient(f(x)
    - x)` nothing but `f(x)` is left of the values, and `x` of the gradient.

    Args:
        subject: A `LossRun`.
    """
    for op in subject.graph.ops:
        if op.type != "StopGradient" or op.inputs[0] not in subject.dependent:
            continue
        for user in op.outputs[0].consumers():
            if user.type in _ADDS and len(user.inputs) == 2:
                first, second = user.inputs
                other = second if first is op.outputs[0] else first
                if _cancels(subject, op.inputs[0], other, _ADDS[user.type]):
                    yield op
                    break


def _cancels(subject, stopped, other, sign):
    kept, lost = map(subject.gradients_of, (other, stopped))
    if kept is None or lost is None:
        return False
    is_moving = False
    for pair in zip(kept, lost, strict=True):
        one, two = (0.0 if g is None else g for g in pair)
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
            found = judged_gradient(call, subject)
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

    elements = max(_FEW_ELEMENTS, _MOST_OPS // len(subject.graph.ops))
    found = mismatch(
        values,
        subject.start,
        subject.gradients,
        subject.is_double,
        min(NUM_ELEMENTS, elements),
    )
    if found is None:
        return {}
    for op in subject.graph.ops:
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
    alone = None if subject.is_hidden(op) else subject.op_alone(op)
    if alone is None or all(gradient is None for gradient in alone[2]):
        return None
    return mismatch(*alone, subject.is_double, _NUM_ELEMENTS)


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
