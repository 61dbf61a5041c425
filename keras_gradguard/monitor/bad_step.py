"""A bad step explained, and kept on disk."""

import dataclasses

import keras

from keras_gradguard.backend import packed, stored
from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
from keras_gradguard.diagnosis.questions import explain_nonfinite, unexplained
from keras_gradguard.diagnosis.spoiled_update import explain_spoiled_update
from keras_gradguard.errors import warn
from keras_gradguard.model.layers import runs_eagerly, state_of
from keras_gradguard.model.optimizers import learning_rates
from keras_gradguard.records.finding import Place
from keras_gradguard.records.kinds import LARGEST_ROOT, severity_of
from keras_gradguard.records.norms import UNMEASURED
from keras_gradguard.report.incident import (
    MOST,
    Incident,
    bounded,
    incident_summary,
    new_folder,
    replay_note,
    write_incident,
)

_MOST_NAMES = 5
_LOSS = "the loss is not finite, its gradient is"
# Causes: an update, and what it leaves for the steps behind it.
_UPDATE, _SPOILED = "update", "spoiled_weight"


class BadSteps:
    """Explains the steps of a training whose gradient is not finite.

    Args:
        hook: The hook of the training.
        log: The `TrainingLog`.
        log_dir: Folder for incidents, or `None` to write none.
    """

    def __init__(self, hook, log, log_dir=None):
        self._hook = hook
        self._model = hook.model
        self._log = log
        self._log_dir = log_dir
        self._number, self._told = 0, set()
        self._num_dismissed = 0

    def may_rearm(self):
        """Returns whether another bad step would be a new one."""
        return self._number < MOST and all(
            bool(keras.ops.all(keras.ops.isfinite(variable)))
            for variable in self._model.trainable_variables
        )

    def dismiss(self, kept):
        """Returns whether a step that was only suspected is none.

        If an entry of its logs is not finite that is no loss that a gradient
        is taken of, but a metric, nothing is broken. Nor is it if the square
        of a gradient overflows, and the optimizer computes none.

        Args:
            kept: What was kept of the step, see `explain`.
        """
        if not kept.is_suspected or kept.spoiled:
            return False
        if kept.batch is not None and self._num_dismissed < MOST:
            step = self._log.step_on(kept.batch, self._hook.answers)
            recorded = step.evidence.recorded(kept.weights)
            known = (recorded, step.variables, step.paths, step.model)
            if recorded.error is None and nonfinite_findings(*known):
                return False
        self._num_dismissed += 1
        if self._num_dismissed >= MOST:
            self._hook.probe.trust_logs()
        return True

    def explain(self, kept, behind=None):
        """Explains one bad step; with a `log_dir` it is written there.

        Args:
            kept: What was kept of it: `step`, `measured`, `weights`, `batch`,
                `trace` and `note`, see `KeptStep`.
            behind: Is asked for what has led to it, as `behind(findings, step,
                kept)`, and returns the `Finding`s that are told.

        Returns:
            `(findings, severity)`; no findings after the third step, nor of
            a cause that was found before.
        """
        self._number += 1
        if self._number > MOST:
            return [], "warning"
        step = self._log.step_on(kept.batch, self._hook.answers)
        self._log.patches.weights = kept.weights
        hit = self._paths(kept.measured, _is_bad)
        found = list(map(self._traced_to_update, self._found(step, kept, hit)))
        if behind is not None:
            found = behind(found, step, kept)
        num_hit = len(hit) or max((len(f.variables) for f in found), default=0)
        if any(f.cause == _UPDATE for f in found):
            # The state of the optimizer stays as it is from now on.
            num_hit = len(step.paths)
        severity = severity_of(num_hit, len(step.paths))
        if self._log_dir is not None:
            known = self._incident(kept.step, step, kept.weights, hit)
            found = self._written(known, found, severity)
        fresh = [
            f
            for f in found
            if _cause(f) not in self._told and not self._is_known(f)
        ]
        self._told |= set(map(_cause, found))
        return fresh, severity

    def _is_known(self, finding):
        """Whether it follows from an update that was told before."""
        causes = {cause for cause, *_ in self._told}
        return finding.cause == _SPOILED and _UPDATE in causes

    def _found(self, step, kept, hit):
        if kept.spoiled and not hit:
            recorded = kept.trace
            if kept.batch is not None:
                recorded = step.evidence.recorded(kept.weights)
            optimizer = getattr(self._model, "optimizer", None)
            rates = learning_rates(optimizer, kept.step) if optimizer else ()
            rate = rates[0][1] if len(rates) == 1 else None
            large = self._paths(kept.measured, _is_large)
            large = tuple(path for path in step.paths if path in large)
            asked = step, kept.spoiled, large, recorded, rate
            return [explain_spoiled_update(*asked)]
        if kept.batch is not None:
            is_xla = self._mode() == "xla"
            return explain_nonfinite(step, hit, kept.weights, is_xla)
        found = []
        if kept.trace is not None:
            found = nonfinite_findings(
                kept.trace, step.variables, step.paths, step.model
            )
        if not hit:
            # The loss alone is not finite.
            trained = self._paths(kept.measured, lambda row: True)
            trained = [path for path in step.paths if path in trained]
            return found or [unexplained(trained, kept.note, _LOSS)]
        paths = tuple(path for path in step.paths if path in hit)
        found = [dataclasses.replace(f, variables=paths) for f in found]
        return found or [unexplained(hit, kept.note)]

    def _traced_to_update(self, finding):
        """A weight that was finite, as it was in the steps before."""
        num_before = self._hook.num_done - self._model.steps_per_execution
        if finding.cause != "weight" or num_before <= 0:
            return finding
        evidence = dict(finding.evidence)
        optimizer = getattr(self._model, "optimizer", None)
        state = [] if optimizer is None else optimizer.variables
        spoiled = [
            variable.path
            for variable in state
            if not bool(keras.ops.all(keras.ops.isfinite(variable)))
        ]
        if spoiled:
            evidence["optimizer_state"] = spoiled[:_MOST_NAMES]
        # The line that reads the weight is not the one that spoiled it.
        return dataclasses.replace(
            finding,
            cause=_SPOILED,
            place=Place(),
            path=(),
            evidence=evidence,
        )

    def _paths(self, measured, holds):
        """The paths of the variables whose statistics are of a kind."""
        return {
            path
            for variables, figures in measured
            for path, row in zip(
                self._log.paths_of(variables), figures, strict=True
            )
            if row[0] != UNMEASURED and holds(row)
        }

    def _incident(self, number, step, weights, hit):
        variables = state_of(self._model)
        arrays, data = {}, step.data
        return Incident(
            step=number,
            epoch=self._log.epoch,
            batch=None if data is None else packed(data, arrays),
            weights=tuple(
                tuple(stored(f"w{number}", value.numpy(), arrays))
                for number, (_, value) in enumerate(weights)
            ),
            names=tuple((v.path, tuple(v.shape)) for v in variables),
            paths=step.paths,
            hit=tuple(path for path in step.paths if path in hit),
            mode=self._mode(),
            arrays=arrays,
            dtype_policy=keras.config.dtype_policy().name,
        )

    def _mode(self):
        if runs_eagerly(self._model):
            return "eager"
        return "xla" if self._model.jit_compile else "graph"

    def _written(self, known, found, severity):
        """Writes an incident; the findings tell how to run it again."""
        try:
            known = bounded(known)
            folder = new_folder(self._log_dir, known.step)
            notes = (*known.notes, replay_note(folder))
            found = [
                dataclasses.replace(f, notes=(*f.notes, *notes)) for f in found
            ]
            words = self._log.words(found, severity, known.step)
            records = tuple(diagnosis.to_dict() for diagnosis in words)
            known = dataclasses.replace(known, diagnoses=records)
            write_incident(folder, known)
            summary = incident_summary(folder, known)
            self._log.events.incident(known.step, summary)
        except OSError as error:
            self._log_dir = None
            warn(
                "GradHealthCallback cannot write the incident to its "
                f"`log_dir`; training continues. {error}"
            )
        return found


def _is_bad(row):
    return row[-1] > 0


def _is_large(row):
    return row[1] > LARGEST_ROOT


def _cause(finding):
    place = finding.place
    return (finding.cause, finding.op, finding.layer, place.file, place.line)
