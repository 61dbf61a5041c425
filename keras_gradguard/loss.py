"""A wrapper around a loss that checks its gradient once per trace."""

import functools
import sys

import keras

from keras_gradguard import backend
from keras_gradguard.errors import (
    FaultBarrier,
    GradientBreakError,
    checked_action,
    patch_barrier,
    warn_of,
)
from keras_gradguard.model.losses import inner_loss, resolved_loss, with_logits
from keras_gradguard.records.kinds import severity_of
from keras_gradguard.records.report import Report

if backend.unsupported() is None:
    from keras_gradguard.advice.patches import Patches
    from keras_gradguard.backend.tensorflow.hook.running import running_hook
    from keras_gradguard.backend.tensorflow.internals.batches import tensors_of
    from keras_gradguard.backend.tensorflow.internals.graphs import (
        NO_GRADIENTS,
        eager_tape,
        is_eager,
        not_converted,
        tape_is_active,
    )
    from keras_gradguard.backend.tensorflow.internals.randomness import (
        random_state_kept,
    )
    from keras_gradguard.backend.tensorflow.tracing.graphs import is_connected
    from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
    from keras_gradguard.diagnosis.failures import explain_error
    from keras_gradguard.diagnosis.questions import (
        explain_loss,
        explain_loss_of_step,
    )
    from keras_gradguard.diagnosis.wording import diagnoses_of
    from keras_gradguard.graph.trace import Step
    from keras_gradguard.measure.rows import unique_paths
else:

    def not_converted(function):
        """Returns the function: without TensorFlow there is no AutoGraph."""
        return function


# An eager loss is called every step. It is checked at the first call and then
# rarely, as the extra tape costs a second backward pass of the loss.
_EAGER_CALLS = 100


@keras.saving.register_keras_serializable(package="keras_gradguard")
class GradGuardLoss(keras.losses.Loss):
    """Wraps a loss and checks that its gradient reaches the prediction.

    The wrapper returns the value of the inner loss. Whenever the loss is
    traced under a gradient tape (at every hundredth call in eager mode), a
    gradient must lead from the loss to `y_pred`. If none does, the error
    names the op and the source line that cut it. On a backend other than
    TensorFlow the wrapper warns once and checks nothing.

    `GradHealthCallback` finds the same cuts and needs no wrapper. Use
    `GradGuardLoss` where you call `compile` but cannot pass callbacks, or to
    save the check together with the model.

    Args:
        loss: A `keras.losses.Loss`, a function of `(y_true, y_pred)`, or
            the name of a Keras loss such as `"mse"`.
        on_break: What to do about a cut: `"raise"` a `GradientBreakError`,
            `"warn"` once, or warn and `"stop"` the training
            (`model.stop_training`).
        name: Name of the loss; by default the name of the inner loss.

    Raises:
        ValueError: If `loss` or `on_break` is not as described.

    Example:
    ```python
    model.compile("adam", loss=GradGuardLoss(my_loss))
    ```
    """

    def __init__(self, loss, on_break="raise", name=None):
        self._inner = inner_loss(loss)
        self._given = self._inner if isinstance(loss, type) else loss
        self.on_break = checked_action("on_break", on_break)
        inner = self._inner
        super().__init__(
            name=name or (inner.name if inner is not None else str(loss)),
            reduction=getattr(inner, "reduction", "sum_over_batch_size"),
            dtype=getattr(inner, "dtype", None),
        )
        self._calls = 0
        self._warned = set()
        self._barrier = FaultBarrier(self._note_fault)

    @property
    def guarded_loss(self):
        """The loss as it was given: a `Loss`, a function or a name."""
        return self._given

    def call(self, y_true, y_pred):
        """Returns the inner loss's values before the reduction."""
        return self._resolved(y_true, y_pred).call(y_true, y_pred)

    @not_converted
    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns the value of the inner loss and checks its gradient.

        Args:
            y_true: Targets, as the inner loss takes them.
            y_pred: Predictions, as the inner loss takes them.
            sample_weight: Weights, as the inner loss takes them.

        Returns:
            The value of the inner loss, unchanged.

        Raises:
            GradientBreakError: If no gradient reaches `y_pred` and
                `on_break` is `"raise"`.
        """
        inner = self._resolved(y_true, y_pred)
        if backend.unsupported() is not None:
            backend.warn_unsupported()
            return inner(y_true, y_pred, sample_weight)
        tensors, tape = None, None
        with self._barrier.guarded():
            if self._is_due():
                tensors = [
                    t
                    for t in with_logits(tensors_of(y_pred))
                    if t.dtype.is_floating
                ]
                tape = eager_tape()
        if tensors is None:
            return inner(y_true, y_pred, sample_weight)
        with self._barrier.around(*([] if tape is None else [tape])):
            with self._barrier.guarded():
                if tape is not None:
                    tape.watch(tensors)
            try:
                value = inner(y_true, y_pred, sample_weight)
            except Exception as error:
                self._explain_error(error)
                raise
        with self._barrier.guarded():
            if tensors and not is_connected(value, tensors, tape):
                self._tell(self._diagnoses(inner, y_true, y_pred))
        return value

    def _note_fault(self, reason):
        """Adds a fault to the report of the running training, if any."""
        hook = running_hook()
        if hook is not None:
            hook.not_checked.append(
                f"`GradGuardLoss` itself failed on the loss {self.name!r} and "
                f"no longer checks it (GG900, {reason})."
            )

    def _resolved(self, y_true, y_pred):
        if self._inner is None:
            return resolved_loss(self._given, y_true, y_pred)
        return self._inner

    def _is_due(self):
        if not self._barrier.is_open or is_examining():
            return False
        if not tape_is_active():
            return False
        if not is_eager():
            return True
        self._calls += 1
        return self._calls % _EAGER_CALLS == 1

    def _diagnoses(self, inner, y_true, y_pred):
        step = _running_step()
        if step is None:
            evidence = backend.loss_evidence(inner, y_true, y_pred)
            findings = explain_loss(evidence)
            return diagnoses_of(findings, 0, "error")
        findings = explain_loss_of_step(step, inner.name)
        lost = {path for f in findings for path in f.variables}
        severity = severity_of(len(lost), len(step.paths))
        patches = _patches_of(step)
        return diagnoses_of(
            findings, len(step.paths), severity, patches=patches
        )

    def _explain_error(self, error):
        with self._barrier.guarded():
            if running_hook() is not None:
                return
            step = _running_step()
            if step is None:
                step = Step(
                    None, None, (), (), backend.step_evidence(None, None)
                )
            findings = explain_error(step, error)
            patches = _patches_of(step)
            for diagnosis in diagnoses_of(
                findings, len(step.paths), "error", patches=patches
            ):
                error.add_note(f"\n{diagnosis}")

    def _tell(self, diagnoses):
        hook = running_hook()
        if hook is None:
            self._act(diagnoses)
        else:
            hook.show(functools.partial(self._act, diagnoses))

    def _act(self, diagnoses):
        hook = running_hook()
        if hook is not None:
            diagnoses = hook.note(diagnoses)
        if not diagnoses:
            return
        if self.on_break == "raise":
            raise GradientBreakError(Report(diagnoses=diagnoses), NO_GRADIENTS)
        for diagnosis in diagnoses:
            if diagnosis.key not in self._warned:
                self._warned.add(diagnosis.key)
                warn_of(diagnosis)
        step = _running_step()
        if self.on_break == "stop" and step is not None:
            step.model.stop_training = True

    def get_config(self):
        """Returns the arguments of the constructor in a serializable form."""
        given = self._given
        if not isinstance(given, str):
            given = keras.saving.serialize_keras_object(given)
        return {"loss": given, "on_break": self.on_break, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """Creates a `GradGuardLoss` from the dict of `get_config`."""
        loss = config["loss"]
        if not isinstance(loss, str):
            loss = keras.saving.deserialize_keras_object(loss)
        return cls(**{**config, "loss": loss})


def _patches_of(step):
    patches = Patches.of_step(step, random_state_kept)
    patches.barrier = patch_barrier()
    return patches


def _running_step():
    """The training step that calls this loss; `None` in a custom loop."""
    hook = running_hook()
    if hook is not None and hook.data is not None:
        model, data = hook.model, hook.data_here()
    else:
        model, data = _step_on_the_stack()
    if model is None:
        return None
    variables = tuple(model.trainable_variables)
    evidence = backend.step_evidence(model, data)
    return Step(model, data, variables, unique_paths(variables), evidence)


def _step_on_the_stack():
    frame = sys._getframe(1)
    while frame is not None:
        code, names = frame.f_code, frame.f_locals
        model = names.get("self")
        if code.co_name == "train_step" and isinstance(model, keras.Model):
            return model, names[code.co_varnames[1]]
        frame = frame.f_back
    return None, None
