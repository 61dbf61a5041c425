"""One look at a compiled model and one batch, without training."""

import collections
import contextlib
import dataclasses

import keras
import numpy as np

from keras_gradguard import backend

if backend.unsupported() is None:
    import tensorflow as tf

    from keras_gradguard.backend.tensorflow.capture.statistics import (
        COLUMNS,
        statistics,
    )
    from keras_gradguard.backend.tensorflow.internals.functions import Functions
    from keras_gradguard.backend.tensorflow.internals.graphs import (
        guard_variables,
    )
    from keras_gradguard.backend.tensorflow.internals.variables import (
        num_updates,
    )
    from keras_gradguard.backend.tensorflow.tracing.restore import (
        state_restored,
        updates_caught,
    )
    from keras_gradguard.diagnosis.addends import (
        explain_addends,
        places_of,
        rows_with,
    )
    from keras_gradguard.diagnosis.failures import explain_error
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
    )
    from keras_gradguard.diagnosis.shares import (
        explain_outside,
        measured,
        shares_of,
    )
    from keras_gradguard.graph.trace import Step
    from keras_gradguard.model.layers import is_default_step
    from keras_gradguard.model.optimizers import named_optimizers
    from keras_gradguard.monitor.log import TrainingLog
    from keras_gradguard.records.kinds import severity_of
    from keras_gradguard.records.norms import MISSING, UNMEASURED

_ALWAYS_ZERO = ("sign", "one_unit_softmax", "loss_weight", "constant_loss")
_ONE_BATCH = "seen on one batch; `GradHealthCallback` tells whether it lasts"


def diagnose(model, x, y=None, sample_weight=None):
    """Takes one look at a compiled model and one batch, without training.

    The training step runs once with its update left out. Weights, optimizer,
    metrics and random state are as they were afterwards; a model that was
    not built is built.

    Args:
        model: A compiled Keras model.
        x: One batch of inputs, as `fit` takes it: arrays or tensors, or a
            list or dict of them.
        y: Its targets, or `None`.
        sample_weight: Its weights, or `None`.

    Returns:
        A `Report`: what is broken, and the gradient norm of every trainable
        variable.

    Raises:
        ValueError: If the model is not compiled. An exception of the step
            that is not about gradients passes.
        UnsupportedBackendError: If Keras does not run on TensorFlow.
    """
    backend.require_supported()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "`diagnose` needs a compiled Keras model. Call `model.compile("
            f"optimizer, loss)` first. Received: model={model!r}"
        )
    data = keras.utils.pack_x_y_sample_weight(
        *(_tensors(part) for part in (x, y, sample_weight))
    )
    if not model.built:
        model(data[0] if isinstance(data, tuple) else data)
    logbook = TrainingLog(model, num_updates)
    evidence = backend.step_evidence(model, data)

    def step_of(variables):
        paths = logbook.paths_of(variables)
        return Step(model, data, tuple(variables), paths, evidence)

    applied, error = _run(model, data)
    if error is not None and not applied:
        step = step_of(model.trainable_variables)
        findings = explain_error(step, error)
        if not findings:
            raise error
        logbook.add(findings, "error")
    addends = _addends(step_of(model.trainable_variables))
    _see_losses(step_of(model.trainable_variables), logbook, addends.reaches)
    for variables, figures, *_ in applied:
        _look(step_of(variables), figures, logbook)
    known = {id(v) for variables, *_ in applied for v in variables}
    dropped = [v for v in model.trainable_variables if id(v) not in known]
    if known and dropped:
        step = step_of(dropped)
        logbook.add(explain_dropped(step), "warning")
    known = places_of(logbook.report.diagnoses)
    logbook.add(addends.without(known).findings, "warning")
    rows = logbook.measure(applied)
    bad, zero = _bad_and_zero(logbook.report.variables)
    if bad:
        step = step_of(model.trainable_variables)
        logbook.add(
            explain_nonfinite(step, bad),
            severity_of(len(bad), len(rows)),
        )
    elif zero and not logbook.report.diagnoses:
        step = step_of(model.trainable_variables)
        _add_zeros(explain_zeros(step, zero), logbook, len(rows))
    return logbook.report


def _bad_and_zero(rows):
    """The paths whose gradient is not finite, and those where it is zero."""
    statuses = collections.defaultdict(set)
    for row in rows:
        statuses[row.path].add(row.status)
    bad = [path for path, known in statuses.items() if "nonfinite" in known]
    return bad, [path for path, known in statuses.items() if known == {"zero"}]


def _add_zeros(findings, logbook, num_variables):
    """One batch proves a slope that is zero everywhere, and no other."""
    for finding in findings:
        severity = "note"
        if finding.cause in _ALWAYS_ZERO:
            severity = severity_of(len(finding.variables), num_variables)
        else:
            notes = (*finding.notes, _ONE_BATCH)
            finding = dataclasses.replace(finding, notes=notes)
        logbook.add([finding], severity)


def _look(step, figures, logbook):
    """Adds to the logbook what is wrong with one optimizer's gradients."""
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
    logbook.add(findings, severity_of(len(lost), len(step.paths)))
    logbook.add(terms.left_out, "warning")
    logbook.add(terms.notes, "note")


def _addends(step):
    """Returns the `Verdicts` on the addends of the loss."""
    trace = step.evidence.traced()
    if trace.error is None:
        found = explain_addends(step, trace)
        if not found.findings:
            return found
        return measured(found, shares_of(step, step.evidence.recorded(), found))
    return explain_outside(step, step.evidence)


def _see_losses(step, logbook, addends):
    """Tells the logbook which term of the loss reaches which variable."""
    trace = step.evidence.traced()
    known = reaches_of(step, trace) if trace.error is None else []
    if len(known) != 1 and is_default_step(step.model):
        known = step.evidence.measured_reaches(
            step.variables, known, number=logbook.now()
        )
    logbook.reach(step.paths, rows_with(known, addends))


def _run(model, data):
    """Runs the step without its updates.

    Returns:
        `(applied, error)`: of each `apply` call what `Probe.read` returns,
        without the updates, and the exception that ended the step, or `None`.
    """
    called, lost, frames = [], [], {}
    optimizers = named_optimizers(model)
    names = {id(optimizer): name for name, optimizer in optimizers}
    is_own = not is_default_step(model)
    apart = Functions().apart() if is_own else contextlib.nullcontext()

    def catch(optimizer, variables, gradients):
        name = names[id(optimizer)]
        scale = tf.cast(optimizer.scale_loss(tf.constant(1.0)), tf.float32)
        if gradients and all(gradient is None for gradient in gradients):
            lost.append((variables, name))
        measured = statistics(gradients, variables, scale)
        with guard_variables():
            # Out of a function no tensor leads.
            shape = [len(variables), len(COLUMNS)]
            empty = tf.fill(shape, UNMEASURED)
            figures = tf.Variable(empty, trainable=False)
        figures.assign(measured)
        called.append((variables, figures, name))

    def run():
        called.clear()
        try:
            model.train_step(data)
        except Exception as error:
            frames[error] = error.__traceback__
            raise

    run = run if model.run_eagerly else tf.function(run, autograph=False)
    caught = updates_caught([held for _, held in optimizers], catch)
    with state_restored(model), apart, caught:
        try:
            run()
        except Exception as error:  # noqa: BLE001
            # On the way out TensorFlow drops the frames of its own.
            error.__traceback__ = frames.get(error, error.__traceback__)
            # Keras would have ended at the first of these.
            return [_none_for(*known) for known in lost[:1]], error
    applied, num_calls = [], collections.Counter()
    for variables, figures, name in called:
        values = figures.numpy()
        # TensorFlow traces a function once more if its first call makes
        # variables: what stood in the draft has not run.
        if not values.size or (values != UNMEASURED).any():
            num_calls[name] += 1
            number = num_calls[name]
            name = f"{name}#{number}" if number > 1 else name
            applied.append((variables, values, None, name))
    return applied, None


def _none_for(variables, name):
    """What `_run` returns of an `apply` call that gets no gradient at all."""
    shape = [len(variables), len(COLUMNS)]
    return variables, np.full(shape, MISSING, np.float32), None, name


def _tensors(nest):
    """Makes tensors of arrays as `fit` does: floats become `floatx`."""

    def convert(value):
        if value is None or tf.is_tensor(value):
            return value
        value = np.asarray(value)
        if value.dtype == np.float64:
            value = value.astype(keras.config.floatx())
        return tf.convert_to_tensor(value)

    return keras.tree.map_structure(convert, nest)
