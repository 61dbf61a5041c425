"""Checks a loss on one batch of targets and predictions."""

import dataclasses

import keras
import numpy as np

from keras_gradguard import backend
from keras_gradguard.errors import check_barrier, patch_barrier
from keras_gradguard.model.losses import inner_loss
from keras_gradguard.records.report import Report

if backend.unsupported() is None:
    from keras_gradguard.advice.patches import Patches
    from keras_gradguard.advice.trial import LossTrial
    from keras_gradguard.backend.tensorflow.internals.batches import (
        is_composite,
        is_dataset,
        tensors_of,
    )
    from keras_gradguard.backend.tensorflow.internals.randomness import (
        random_state_kept,
    )
    from keras_gradguard.backend.tensorflow.tracing.restore import (
        examining,
    )
    from keras_gradguard.diagnosis.jumps import jumps_of
    from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
    from keras_gradguard.diagnosis.questions import explain_loss
    from keras_gradguard.diagnosis.shares import explain_addends_of_loss
    from keras_gradguard.diagnosis.wording import diagnoses_of
    from keras_gradguard.diagnosis.wrong_gradient import wrong_findings
    from keras_gradguard.diagnosis.zeros import zero_findings
    from keras_gradguard.model.losses import resolved_loss
    from keras_gradguard.source.frames import library_calls, user_place

_ON_PURPOSE = ("straight_through", "identity")
_LACKS_NOTE = "the gradient lacks the derivative of this part of the loss"


def check_loss(loss, y_true, y_pred):
    """Checks the gradient of a loss on one batch, without a model.

    Reports where the gradient to `y_pred` is cut, where it is NaN or Inf,
    where it differs from finite differences (computed in float64 if the loss
    allows it), and where the loss is discontinuous.

    Args:
        loss: A `keras.losses.Loss`, a function of `(y_true, y_pred)`, or
            the name of a Keras loss such as `"mse"`.
        y_true: One batch of targets: an array or tensor, or a list or dict of
            them.
        y_pred: Predictions for that batch, in the same form.

    Returns:
        A `Report` without variables.

    Raises:
        ValueError: If an argument is not as described. Exceptions of the loss
            that have nothing to do with gradients propagate.
        UnsupportedBackendError: If Keras does not run on TensorFlow.

    Example:
    ```python
    print(check_loss(my_loss, y_true, model.predict(x)))
    ```
    """
    backend.require_supported()
    inner = inner_loss(loss)
    for name, given in (("y_true", y_true), ("y_pred", y_pred)):
        if is_dataset(given):
            raise ValueError(_expected(name, f"type {type(given).__name__}"))
    y_true = _tensors("y_true", y_true)
    y_pred = _tensors("y_pred", y_pred)
    loss = inner or resolved_loss(loss, y_true, y_pred)
    diagnoses, reasons, error = [], [], None
    with check_barrier(reasons).guarded(), examining(), random_state_kept():
        evidence = backend.loss_evidence(loss, y_true, y_pred)
        patches = Patches(lambda finding: LossTrial(evidence, finding))
        patches.barrier = patch_barrier()

        def is_flat(others):
            other = backend.loss_evidence(loss, y_true, others)
            return _is_flat(other)

        found, error = _findings(evidence, y_pred, is_flat)
        for severity, findings in found:
            diagnoses += diagnoses_of(findings, 0, severity, patches=patches)
    if error is not None:
        raise error
    not_checked = " ".join(reasons) or None
    return Report(diagnoses=tuple(diagnoses), not_checked=not_checked)


def _findings(evidence, y_pred, is_flat):
    """Returns `(severity, findings)` pairs, and what the loss itself raises.

    Args:
        evidence: What looks at the loss.
        y_pred: The predictions, tensors.
        is_flat: Returns whether the gradient of others is zero throughout.
    """
    with evidence.state_kept():
        recorded = evidence.recorded()
    error = recorded.error
    if error is not None:
        finding = evidence.failure(error)
        if finding is None:
            return [], error
        return [("error", [_placed(finding, recorded)])], None
    _, gradients = recorded.applied[0]
    cut = []
    if any(gradient is None for gradient in gradients):
        cut = explain_loss(evidence)
    if all(gradient is None for gradient in gradients):
        return [("error", cut)], None
    if _has_only_zeros(recorded):
        flat = [f for f in explain_loss(evidence) if f.kind == "zero"]
        if flat:
            return [("error", flat)], None
    predictions = tensors_of(y_pred)
    names = ["y_pred"] * len(predictions)

    def replay(types, value):
        with evidence.state_kept():
            return evidence.recorded((types, value))

    asked = recorded, predictions, names
    nonfinite = nonfinite_findings(*asked, replay=replay)
    if nonfinite:
        found = [_named(f) for f in nonfinite]
        return [("warning", cut), ("error", found)], None
    zeros = [] if cut else _zeros(*asked)
    if zeros and not all(map(is_flat, _nearby(y_pred))):
        zeros = []
    wrong, jumps = _measured(evidence)
    beside = [f for f in wrong if f.place.line is None]
    refused = _refused(evidence, beside) if beside else []
    if refused:
        wrong = [f for f in wrong if f not in beside]
    addends = explain_addends_of_loss(evidence)
    told = addends.lines | {(f.place.file, f.place.line) for f in cut}
    jumps = [j for j in jumps if (j.place.file, j.place.line) not in told]
    return [
        ("warning", cut + zeros + refused + [*addends.findings]),
        ("error", [f for f in wrong if f.cause not in _ON_PURPOSE]),
        ("warning", jumps),
        ("note", [f for f in wrong if f.cause in _ON_PURPOSE]),
    ], None


def _has_only_zeros(recorded):
    """Whether each gradient that there is is zero throughout."""
    _, gradients = recorded.applied[0]
    array = recorded.graph.oracle.array
    return not any(np.any(array(g)) for g in gradients if g is not None)


def _is_flat(evidence):
    with evidence.state_kept():
        recorded = evidence.recorded()
    return recorded.error is None and _has_only_zeros(recorded)


def _nearby(y_pred):
    """Yields predictions below and above: at one point a gradient may be zero.

    A prediction that is right is such a point, and so is a cosine of zeros.
    """
    for factor, shift in ((0.99, 0.0), (1.01, 0.01)):
        yield keras.tree.map_structure(
            lambda t, a=factor, b=shift: a * t + b, y_pred
        )


def _zeros(recorded, predictions, names):
    """What stops the gradient of all predictions of the batch."""
    if not _has_only_zeros(recorded):
        return []
    found = zero_findings(recorded, predictions, names, None)
    return [dataclasses.replace(f, variables=()) for f in found]


def _placed(finding, recorded):
    """The line of an op that has run, where its gradient function fails."""
    made = [op for op in recorded.graph.ops if op.type == finding.op]
    if finding.place.line is not None or not made:
        return finding
    # The tape goes back from the last one.
    frames = made[-1].frames
    return dataclasses.replace(
        finding, place=user_place(frames), calls=library_calls(frames)
    )


def _named(finding):
    """Calls the parts of the batch what they are to a loss."""
    evidence = dict(finding.evidence)
    if "data" in evidence:
        names = {"x": "y_true", "y": "y_pred"}
        evidence["data"] = [names[part] for part in evidence["data"]]
    return dataclasses.replace(finding, variables=(), evidence=evidence)


def _measured(evidence):
    """What running the loss on other predictions shows."""
    subject, name = evidence.loss_run(), evidence.loss.name
    if subject is None:
        return [], []
    return wrong_findings(subject, name), jumps_of(subject, name)


def _refused(evidence, beside):
    """The line at which a part of the value has left TensorFlow."""
    error = evidence.traced().error
    finding = evidence.failure(error) if error is not None else None
    if finding is None:
        return []
    notes = (*finding.notes, _LACKS_NOTE)
    evidence = beside[0].evidence
    return [dataclasses.replace(finding, notes=notes, evidence=evidence)]


def _tensors(name, nest):
    """Makes tensors as `Loss.__call__` does, and says what does not fit."""

    def convert(value):
        if is_composite(value):
            return value
        if value is None:
            raise ValueError(_expected(name, "None"))
        if not keras.ops.is_tensor(value) and not hasattr(value, "path"):
            value = np.asarray(value)
            if value.dtype.kind not in "fiub":
                raise ValueError(_expected(name, f"dtype {value.dtype}"))
        value = keras.ops.convert_to_tensor(value)
        if 0 in value.shape:
            raise ValueError(_expected(name, f"shape {tuple(value.shape)}"))
        is_double = keras.backend.standardize_dtype(value.dtype) == "float64"
        if name == "y_pred" or is_double:
            value = keras.ops.cast(value, keras.config.floatx())
        return value

    leaves = keras.tree.flatten(nest)
    if not leaves:
        raise ValueError(_expected(name, "no values"))
    if isinstance(nest, (list, tuple)) and all(map(np.isscalar, leaves)):
        nest = np.asarray(nest)
    return keras.tree.map_structure(convert, nest)


def _expected(name, given):
    return (
        f"`{name}` must be one batch of at least one sample: an array or a "
        "tensor of numbers or, for several outputs, a list or dict of them, "
        f"e.g. `model.predict(x)`. Received: {name} with {given}"
    )
