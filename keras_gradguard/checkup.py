"""One look at a compiled model and one batch, without training."""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard import capture
from keras_gradguard.diagnosis import examine, internals
from keras_gradguard.diagnosis.failed import explain_error
from keras_gradguard.diagnosis.terms import explain_terms
from keras_gradguard.diagnosis.trace import examining, optimizers_of
from keras_gradguard.diagnosis.ways import Step
from keras_gradguard.logbook import Logbook
from keras_gradguard.patch import replaced


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
    """
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
    logbook = Logbook(model)
    applied, error = _run(model, data)
    if error is not None:
        step = _step(model, data, model.trainable_variables, logbook)
        findings = explain_error(step, error)
        if not findings:
            raise error
        logbook.add(findings, "error")
    for variables, norms in applied:
        _look(_step(model, data, variables, logbook), norms, logbook)
    known = {id(v) for variables, _ in applied for v in variables}
    dropped = [v for v in model.trainable_variables if id(v) not in known]
    if known and dropped:
        step = _step(model, data, dropped, logbook)
        logbook.add(examine.explain_dropped(step), "warning")
    logbook.measure([(v, np.asarray(norms)) for v, norms in applied])
    return logbook.report


def _look(step, norms, logbook):
    """Adds to the logbook what is wrong with one optimizer's gradients."""
    missing = [n for n, norm in enumerate(norms) if norm == capture.MISSING]
    zeros = [n for n, norm in enumerate(norms) if norm == 0]
    findings = examine.explain_missing(step, missing) if missing else []
    findings += examine.explain_zero(step, zeros) if zeros else []
    terms = [] if len(missing) == len(norms) else explain_terms(step)
    findings += [finding for finding in terms if finding.variables]
    lost = {path for finding in findings for path in finding.variables}
    is_all = len(lost) == len(step.paths)
    logbook.add(findings, "error" if is_all else "warning")
    logbook.add([f for f in terms if not f.variables], "note")


def _step(model, data, variables, logbook):
    return Step(model, data, tuple(variables), logbook.paths_of(variables))


def _run(model, data):
    """Runs the step without its updates.

    Returns:
        `([(variables, norms), ...], error)`: the variables and norms of each
        `apply` call, and the exception that ended the step, or `None`.
    """
    called = []

    def instead_of(optimizer):
        def apply(grads, trainable_variables=None):
            variables = trainable_variables
            if variables is None:
                variables = internals.variables_of(optimizer)
            scale = optimizer.scale_loss(tf.constant(1.0))
            measured = capture.norms(list(grads), tf.cast(scale, tf.float32))
            called.append((list(variables), measured))

        return apply

    def run():
        called.clear()
        model.train_step(data)
        return [norms for _, norms in called]

    run = run if model.run_eagerly else tf.function(run, autograph=False)
    with _kept(model), contextlib.ExitStack() as stack:
        for optimizer in optimizers_of(model):
            instead = replaced(optimizer, "apply", instead_of(optimizer))
            stack.enter_context(instead)
        try:
            norms = [values.numpy() for values in run()]
        except Exception as error:  # noqa: BLE001
            return [], error
    variables = [group for group, _ in called]
    return list(zip(variables, norms, strict=True)), None


@contextlib.contextmanager
def _kept(model):
    """Puts variables and random state back as they were."""
    variables = [*model.variables, *model.metrics_variables]
    for optimizer in optimizers_of(model):
        variables += optimizer.variables
    values = [(v, keras.ops.convert_to_numpy(v)) for v in variables]
    states = random.getstate(), np.random.get_state()
    with (
        internals.random_state_kept(),
        internals.losses_kept(model),
        examining(),
    ):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            for variable, value in values:
                variable.assign(value)


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
