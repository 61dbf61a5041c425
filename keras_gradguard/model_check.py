"""Checks a compiled model on one batch, without training."""

import collections
import dataclasses

import keras
import numpy as np

from keras_gradguard import backend
from keras_gradguard.errors import check_barrier
from keras_gradguard.records.report import Report

if backend.unsupported() is None:
    from keras_gradguard.backend.tensorflow.capture.statistics import (
        COLUMNS,
        statistics,
    )
    from keras_gradguard.backend.tensorflow.internals.batches import (
        first_batch,
        is_dataset,
    )
    from keras_gradguard.backend.tensorflow.internals.randomness import (
        random_state_kept,
    )
    from keras_gradguard.backend.tensorflow.internals.variables import (
        num_updates,
    )
    from keras_gradguard.backend.tensorflow.tracing.reruns import run_once
    from keras_gradguard.diagnosis.addends import (
        explain_addends,
        places_of,
        rows_with,
    )
    from keras_gradguard.diagnosis.failures import explain_error
    from keras_gradguard.diagnosis.heads import uncounted_findings
    from keras_gradguard.diagnosis.hidden_losses import (
        HiddenLosses,
        explain_terms,
        reaches_of,
    )
    from keras_gradguard.diagnosis.questions import (
        explain_dropped,
        explain_missing,
        explain_nonfinite,
        explain_zero,
        explain_zeros,
        misfit_findings,
    )
    from keras_gradguard.diagnosis.shares import (
        explain_outside,
        measured,
        shares_of,
    )
    from keras_gradguard.diagnosis.untracked import (
        explain_frozen,
        explain_untracked,
    )
    from keras_gradguard.diagnosis.zeros import ALWAYS_ZERO, holds_constant
    from keras_gradguard.graph.trace import Step
    from keras_gradguard.model.layers import is_default_step
    from keras_gradguard.monitor.log import TrainingLog
    from keras_gradguard.records.kinds import severity_of
    from keras_gradguard.records.norms import MISSING

_ONE_BATCH = "one batch only; `GradHealthCallback` shows whether it persists"


def diagnose(model, x, y=None, sample_weight=None):
    """Checks a compiled model on one batch, without training.

    Runs the training step once without applying its update. Afterwards
    weights, optimizer, metrics and random state are unchanged; a model that
    was not built is built.

    Args:
        model: A compiled Keras model.
        x: One batch of inputs, as for `fit`: an array or tensor, or a list
            or dict of them. If it is a `tf.data.Dataset`, its first batch is
            used, with targets and weights. For a model with a single input
            it may also be a tuple `(x, y)` or `(x, y, sample_weight)`.
        y: The targets, or `None`.
        sample_weight: The sample weights, or `None`.

    Returns:
        A `Report` with the findings and the gradient norm of every trainable
        variable.

    Raises:
        ValueError: If the model is not compiled. Exceptions of the step that
            have nothing to do with gradients propagate.
        UnsupportedBackendError: If Keras does not run on TensorFlow.
    """
    backend.require_supported()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "`diagnose` needs a compiled Keras model. Call `model.compile("
            f"optimizer, loss)` first. Received: model={model!r}"
        )
    data = _batch(model, x, y, sample_weight)
    if not model.built:
        _build(model, data)
    log, error, report = None, None, None
    reasons = []
    barrier = check_barrier(reasons)
    with barrier.guarded():
        log = TrainingLog(model, num_updates)
        log.not_checked = reasons
        error = _check(model, data, log)
    if error is not None:
        raise error
    with barrier.guarded():
        report = None if log is None else log.report
    return report or Report(not_checked=" ".join(reasons))


def _check(model, data, log):
    """Looks at a model; returns what its step raises for other reasons."""
    log.patches.isolated = random_state_kept
    evidence = backend.step_evidence(model, data)

    def step_of(variables):
        paths = log.paths_of(variables)
        step = Step(model, data, tuple(variables), paths, evidence)
        log.patches.step = step
        return step

    applied, error = run_once(model, data, statistics, COLUMNS)
    if error is not None and not applied:
        step = step_of(model.trainable_variables)
        findings = explain_error(step, error)
        if not findings:
            return error
        log.add(findings, "error")
    addends = _addends(step_of(model.trainable_variables))
    _note_losses(step_of(model.trainable_variables), log, addends.reaches)
    for variables, figures, *_ in applied:
        _look(step_of(variables), figures, log)
    known = {id(v) for variables, *_ in applied for v in variables}
    dropped = [v for v in model.trainable_variables if id(v) not in known]
    if known and dropped:
        step = step_of(dropped)
        log.add(explain_dropped(step), "warning")
    if error is None:
        step = step_of(model.trainable_variables)
        severity = severity_of(0, len(step.variables))
        log.add(explain_untracked(step), severity)
        log.add(explain_frozen(model), "warning")
    known = places_of(log.report.diagnoses)
    log.add(addends.without(known).findings, "warning")
    rows = log.measure(applied)
    bad, zero = _bad_and_zero(log.report.variables)
    if bad:
        step = step_of(model.trainable_variables)
        log.add(
            explain_nonfinite(step, bad),
            severity_of(len(bad), len(rows)),
        )
    elif error is None:
        step = step_of(model.trainable_variables)
        # Of a frozen model nothing is measured.
        _look_at_head(step, zero, log, 0 if rows is None else len(rows))
    return None


def _bad_and_zero(rows):
    """The paths whose gradient is not finite, and those where it is zero."""
    statuses = collections.defaultdict(set)
    for row in rows:
        statuses[row.path].add(row.status)
    bad = [path for path, known in statuses.items() if "nonfinite" in known]
    return bad, [path for path, known in statuses.items() if known == {"zero"}]


def _may_round(step):
    """Whether a gradient may be zero by its formula, and no zero here."""
    trace = step.evidence.traced()
    return trace.error is None and holds_constant(trace.graph)


def _look_at_head(step, zero, log, num_variables):
    """Adds what does not fit the loss, and other zeros if that is all."""
    is_clean, zeros = not log.report.diagnoses, []
    if is_clean:
        asked = list(step.paths) if _may_round(step) else zero
        zeros = explain_zeros(step, asked)
    uncounted = uncounted_findings(step)
    if uncounted:
        log.add(uncounted, "note")
        return
    misfits = misfit_findings(step, zero, {f.cause for f in zeros})
    explained = {p for f in misfits if f.kind == "zero" for p in f.variables}
    for finding in misfits:
        severity = "note" if finding.certainty == "suspected" else "warning"
        if finding.kind == "zero":
            severity = severity_of(len(finding.variables), num_variables)
        log.add([finding], severity)
    zeros = [f for f in zeros if not explained.issuperset(f.variables)]
    _add_zeros(zeros, log, num_variables)


def _add_zeros(findings, log, num_variables):
    """One batch proves only a derivative that is zero for any data."""
    for finding in findings:
        severity = "note"
        if finding.cause in ALWAYS_ZERO:
            severity = severity_of(len(finding.variables), num_variables)
        else:
            notes = (*finding.notes, _ONE_BATCH)
            finding = dataclasses.replace(finding, notes=notes)
        log.add([finding], severity)


def _look(step, figures, log):
    """Adds to the log what is wrong with one optimizer's gradients."""
    norms = figures[:, 0]
    missing = [n for n, norm in enumerate(norms) if norm == MISSING]
    zeros = [n for n, largest in enumerate(figures[:, 1]) if largest == 0]
    findings = explain_missing(step, missing) if missing else []
    findings += explain_zero(step, zeros) if zeros else []
    terms = (
        HiddenLosses()
        if len(missing) == len(norms)
        else explain_terms(step, True)
    )
    findings += terms.findings
    lost = {path for finding in findings for path in finding.variables}
    log.add(findings, severity_of(len(lost), len(step.paths)))
    log.add(terms.left_out, "warning")
    log.add(terms.notes, "note")


def _addends(step):
    """Returns the `Verdicts` on the addends of the loss."""
    trace = step.evidence.traced()
    if trace.error is None:
        found = explain_addends(step, trace)
        if not found.findings:
            return found
        return measured(found, shares_of(step, step.evidence.recorded(), found))
    return explain_outside(step, step.evidence)


def _note_losses(step, log, addends):
    """Tells the log which term of the loss reaches which variable."""
    trace = step.evidence.traced()
    known = reaches_of(step, trace) if trace.error is None else []
    if len(known) != 1 and is_default_step(step.model):
        known = step.evidence.measured_reaches(
            step.variables, known, number=log.num_updates()
        )
    log.note_reaches(step.paths, rows_with(known, addends))


def _batch(model, x, y, sample_weight):
    """Returns the batch as `train_step` gets it."""
    if is_dataset(x):
        if y is not None or sample_weight is not None:
            raise ValueError(
                "`diagnose` takes targets and weights from the dataset given "
                "as `x`; do not pass `y` or `sample_weight` as well."
            )
        batch = first_batch(x)
        if batch is None:
            raise ValueError("The dataset given to `diagnose` has no batch.")
        return batch
    is_pair = isinstance(x, tuple) and len(x) in (2, 3) and y is None
    if is_pair and len(getattr(model, "inputs", None) or (x,)) == 1:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(x)
    return keras.utils.pack_x_y_sample_weight(
        *(_tensors(part) for part in (x, y, sample_weight))
    )


def _build(model, data):
    """Builds a model by a call, as `fit` does by its step."""
    try:
        model(data[0] if isinstance(data, tuple) else data)
    except Exception as error:
        if is_default_step(model):
            raise
        raise ValueError(
            "`diagnose` cannot build the model: calling it with the inputs of "
            f"the batch raised {type(error).__name__}. Call the model once "
            "with the inputs that your `train_step` passes to it, then call "
            "`diagnose`."
        ) from error


def _tensors(nest):
    """Makes tensors of arrays as `fit` does: floats become `floatx`."""

    def convert(value):
        if value is None or keras.ops.is_tensor(value):
            return value
        value = np.asarray(value)
        if value.dtype == np.float64:
            value = value.astype(keras.config.floatx())
        return keras.ops.convert_to_tensor(value)

    return keras.tree.map_structure(convert, nest)
