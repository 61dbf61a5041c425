"""Runs a step with a change of the user's code, and says whether it helps."""

import contextlib
import dataclasses

import keras
import numpy as np

from keras_gradguard.diagnosis.addends import explain_addends
from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.diagnosis.heads import OF_HEAD, explain_heads
from keras_gradguard.diagnosis.jumps import jumps_of
from keras_gradguard.diagnosis.questions import jumps_of_losses
from keras_gradguard.diagnosis.shares import explain_addends_of_loss
from keras_gradguard.diagnosis.underflow import (
    SCALED_WRONGLY,
    scaling_findings,
    unscaled_findings,
)
from keras_gradguard.model.layers import weights_added
from keras_gradguard.records.text import counted
from keras_gradguard.source.frames import is_own_fault
from keras_gradguard.source.swap import NotSwapped, swapped

# A gradient that is finite because 1 / 0 has become 1 / 1e-7 trains nothing.
_LARGEST = 1e4


class LossTrial:
    """Tries changes on a loss alone.

    Args:
        evidence: What looks at the loss.
        finding: The `Finding` that a change is to correct.
    """

    def __init__(self, evidence, finding):
        self._evidence = evidence
        self._finding = finding

    def check(self, text, lines, keeps_value=False):
        """Tries another text of the file, see `StepTrial.check`."""
        known = None
        if keeps_value:
            with self._evidence.state_kept():
                known = _totals(self._evidence.recorded())
        file = self._finding.place.file
        return _tried(file, lines, text, lambda: self._verdict(known))

    def _verdict(self, known):
        evidence = self._evidence.renewed()
        with evidence.state_kept():
            recorded = evidence.recorded()
        if recorded.error is not None:
            return None
        if _has_changed(known, recorded) or not _is_finite_loss(recorded):
            return None
        _, gradients = recorded.applied[0]
        arrays = [recorded.graph.oracle.array(g) for g in gradients]
        if any(a is None or not np.all(np.abs(a) < _LARGEST) for a in arrays):
            return None
        if not any(map(np.any, arrays)):
            return None
        trace = evidence.traced()
        if trace.error is not None:
            return None
        location = Location.of_prediction(trace)
        if any(map(location.distance, range(len(location.tensors)))):
            return None
        if explain_addends_of_loss(evidence).findings:
            return None
        if self._finding.kind == "discontinuous":
            subject = evidence.loss_run()
            if subject is None or jumps_of(subject, evidence.loss.name):
                return None
        return "the prediction got a finite gradient on this batch"


def _loss_scale(model):
    """What the optimizer multiplies the loss by."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 1.0
    return float(keras.ops.convert_to_numpy(optimizer.scale_loss(1.0)))


def _totals(recorded):
    """The values that were differentiated, arrays; `None` if not known."""
    targets = [t for call in recorded.targets for t in call.targets]
    found = [target.array() for target in targets]
    is_known = recorded.error is None and all(a is not None for a in found)
    # A value that NumPy has computed is no tensor.
    return found if found and is_known else None


def _is_finite_loss(recorded):
    """Whether what was differentiated has a value, as far as it is known."""
    return all(np.all(np.isfinite(one)) for one in _totals(recorded) or ())


def _has_changed(known, recorded):
    """Whether values that were finite are others now, but for rounding."""
    if known is None or not all(np.all(np.isfinite(one)) for one in known):
        return False
    now = _totals(recorded) or ()
    return len(now) != len(known) or not all(
        np.shape(one) == np.shape(other)
        and np.allclose(one, other, rtol=1e-3, atol=1e-6)
        for one, other in zip(known, now, strict=True)
    )


def _gradients(recorded):
    """Id of each variable -> its gradient, an array or `None`."""
    return {
        id(variable): recorded.graph.oracle.array(gradient)
        for variables, gradients in recorded.applied
        for variable, gradient in zip(variables, gradients, strict=True)
    }


def _tried(file, lines, text, verdict):
    names = (("keras", keras),)
    try:
        with swapped(file, lines, text, names):
            return verdict()
    except NotSwapped:
        return None
    except Exception as error:
        if is_own_fault(error):
            raise
        # Code that was changed may fail in any way: then it is no patch.
        return None


class StepTrial:
    """Tries changes on a training step.

    The step runs in a scratch copy, as each look at a step does: weights,
    optimizer and random state are as before.

    Args:
        step: The `Step`.
        finding: The `Finding` that a change is to correct.
        weights: `(variable, value)` pairs of the weights to run it with; by
            default those of now.
    """

    def __init__(self, step, finding, weights=()):
        self._step = step
        self._finding = finding
        self._weights = weights
        self._hit = set(finding.variables)
        self._before = None

    def check(self, text, lines, keeps_value=False):
        """Tries another text of the file.

        Args:
            text: The text of the finding's file with a change.
            lines: Numbers of the lines that the change is in.
            keeps_value: Whether the loss has to keep its value.

        Returns:
            What was checked, a clause; `None` if the change does not help.
        """
        # Before the code is exchanged: the evidence keeps what it sees.
        evidence, known = self._step.evidence, None
        self._before = evidence.traced()
        if keeps_value and evidence.has_data:
            known = _totals(evidence.recorded(self._weights))
        file = self._finding.place.file
        return _tried(file, lines, text, lambda: self._verdict(known))

    def _verdict(self, known):
        evidence = self._step.evidence.renewed()
        trace = evidence.traced()
        if trace.error is None:
            if not self._is_connected(trace):
                return None
        elif not evidence.runs_eagerly:
            return None
        is_jump = self._finding.kind == "discontinuous"
        if is_jump and self._still_jumps(evidence):
            return None
        if self._still_misfits(evidence, trace):
            return None
        if not evidence.has_data:
            return f"a gradient reaches {self._count()}"
        recorded = self._recorded(evidence)
        if recorded.error is not None or not self._is_finite(recorded):
            return None
        if _has_changed(known, recorded) or not _is_finite_loss(recorded):
            return None
        return f"{self._count()} got a finite gradient on this batch"

    def _still_misfits(self, evidence, trace):
        """Whether the loss expects or scales as wrongly as before."""
        step = dataclasses.replace(self._step, evidence=evidence)
        if self._finding.cause == "loss_not_scaled":
            return trace.error is not None or unscaled_findings(step, trace)
        if self._finding.cause in SCALED_WRONGLY:
            return not evidence.has_data or scaling_findings(step)
        if self._finding.cause in OF_HEAD:
            # Labels that do not fit are another finding, before and after.
            return not evidence.has_data or any(
                found.cause in OF_HEAD for found in explain_heads(step)
            )
        return False

    def _recorded(self, evidence):
        return evidence.recorded(self._weights)

    def _still_jumps(self, evidence):
        step = dataclasses.replace(self._step, evidence=evidence)
        return not evidence.has_data or jumps_of_losses(
            step, evidence.runs_eagerly
        )

    def _is_connected(self, trace):
        """Whether each variable that was hit is reached, and no other lost."""
        step = self._step
        now = Location(trace, step.model, step.variables, step.paths)
        before, known = self._before, None
        if before.error is None:
            known = Location(before, step.model, step.variables, step.paths)
        for number, path in enumerate(step.paths):
            is_lost = now.distance(number) > 0
            was_lost = known is None or known.distance(number) > 0
            if is_lost and (path in self._hit or not was_lost):
                return False
        return self._is_new_silent(trace)

    def _is_new_silent(self, trace):
        """Whether no addend of the loss is cut that was not cut before."""
        before, known = self._before, 0
        if before.error is None:
            known = len(explain_addends(self._step, before, False).findings)
        now = len(explain_addends(self._step, trace, False).findings)
        is_addend = "addend" in self._finding.evidence
        return now < known if is_addend else now <= known

    def _is_finite(self, recorded):
        largest = _LARGEST * _loss_scale(self._step.model)
        arrays = _gradients(recorded)
        if not arrays:
            return False
        for variable, path in zip(
            self._step.variables, self._step.paths, strict=True
        ):
            array = arrays.get(id(variable))
            if array is None:
                if path in self._hit:
                    return False
            elif not np.all(np.abs(array) < largest):
                return False
            elif path in self._hit and not np.any(array):
                return False
        return True

    def _count(self):
        """Words for the variables that were hit."""
        total = len(self._step.paths)
        hit = len(self._hit) or total
        if hit == 1:
            return "the variable"
        which = "all" if hit == total else "the"
        return f"{which} {counted(hit, 'variable')}"


# The norm of a gradient that was as good as zero is that much larger now.
_LIFTED = 1e3
# One that vanished is no smaller than that beside the largest, and larger
# than it was.
_SHARE, _GROWN = 1e-2, 10.0
_PACE = 1e-2


class LayerTrial(StepTrial):
    """Tries what other code would have made of layers that exist.

    To run the code of a construction again would make other layers. So the
    layers get what it would have given them, for the step alone: attributes
    and weights are as before then.

    Args:
        step: See `StepTrial`.
        finding: See `StepTrial`.
        weights: See `StepTrial`.
    """

    def __init__(self, step, finding, weights=()):
        super().__init__(step, finding, weights)
        self._drawn, self._norms, self._num_steps = (), {}, 1

    def check(self, rewrite):
        """Tries one rewrite.

        Args:
            rewrite: A `Rewrite` with `attributes`, `weights` or `tracked`.

        Returns:
            See `StepTrial.check`.
        """
        self._drawn, self._num_steps = rewrite.weights, 1
        evidence = self._step.evidence
        self._before = evidence.traced()
        if evidence.has_data and self._finding.kind == "wrong":
            # A gradient is there: it is that of another loss.
            self._norms = {}
        elif evidence.has_data:
            self._norms = self._norms_of(evidence.recorded(self._weights))
        elif rewrite.weights:
            return None
        known = self._step
        try:
            with (
                attributes_set(rewrite.attributes),
                weights_added([pair[:2] for pair in rewrite.tracked]),
            ):
                self._step = _extended(known, rewrite.tracked)
                return self._verdict(None)
        except Exception as error:
            if is_own_fault(error):
                raise
            # A layer with other attributes may fail in any way.
            return None
        finally:
            self._step = known

    def _verdict(self, known):
        found = super()._verdict(known)
        if found is None or self._num_steps == 1:
            return found
        return f"{found} within two steps"

    def _recorded(self, evidence):
        recorded = evidence.recorded((*self._weights, *self._drawn))
        if not self._drawn or recorded.error is not None:
            return recorded
        moved = self._moved(_gradients(recorded))
        if not moved:
            return recorded
        self._num_steps = 2
        return evidence.recorded((*self._weights, *self._drawn, *moved))

    def _moved(self, arrays):
        """The weights after a step, where it takes one to let others learn.

        Of two factors the gradient of the first is zero as long as the other
        one is.
        """
        given = {
            id(variable): value
            for variable, value in (*self._weights, *self._drawn)
        }
        moved, is_waiting = [], False
        for variable, path in zip(
            self._step.variables, self._step.paths, strict=True
        ):
            array = arrays.get(id(variable))
            if path not in self._hit or array is None:
                continue
            size = np.sqrt(np.mean(np.square(array)))
            if size == 0:
                is_waiting = True
                continue
            value = given.get(id(variable), variable)
            value = keras.ops.convert_to_numpy(value)
            moved.append((variable, value - _PACE * array / size))
        return moved if is_waiting else []

    def _is_finite(self, recorded):
        return super()._is_finite(recorded) and self._is_lifted(
            self._norms_of(recorded)
        )

    def _norms_of(self, recorded):
        """Norms of the gradients: of each layer that is hit, of any variable.

        Returns:
            A dict of the largest norm among the variables of each layer that
            are hit, and the largest of all, under `None`.
        """
        arrays, found = _gradients(recorded), {None: 0.0}
        for variable, path in zip(
            self._step.variables, self._step.paths, strict=True
        ):
            array = arrays.get(id(variable))
            norm = 0.0 if array is None else float(np.linalg.norm(array))
            layers = [path.rpartition("/")[0]] if path in self._hit else []
            for layer in (None, *layers):
                found[layer] = max(norm, found.get(layer, 0.0))
        return found

    def _is_lifted(self, norms):
        for layer, now in norms.items():
            before = self._norms.get(layer, 0.0)
            if layer is None:
                continue
            if self._finding.kind == "vanishing":
                if now < max(_SHARE * norms[None], _GROWN * before):
                    return False
            elif now <= _LIFTED * before:
                return False
        return True


def _extended(step, tracked):
    """The step with variables that it is to train too."""
    if not tracked:
        return step
    return dataclasses.replace(
        step,
        variables=(*step.variables, *(variable for _, variable, _ in tracked)),
        paths=(*step.paths, *(path for *_, path in tracked)),
        answers={},
    )


@contextlib.contextmanager
def attributes_set(attributes):
    """Gives layers other attributes while the block runs.

    Args:
        attributes: `(layer, name, value)` of attributes that they have.
    """
    # Past Keras, which would note what it is given.
    kept = [(vars(o), name, vars(o)[name]) for o, name, _ in attributes]
    try:
        for owner, name, value in attributes:
            vars(owner)[name] = value
        yield
    finally:
        for names, name, value in kept:
            names[name] = value
