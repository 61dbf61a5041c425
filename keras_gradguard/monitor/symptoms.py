"""What the numbers of the steps show, and why."""

import dataclasses
import warnings

import keras
import tensorflow as tf

from keras_gradguard.backend import step_evidence
from keras_gradguard.backend.tensorflow.internals.batches import (
    packed,
    packed_batch,
    stored,
)
from keras_gradguard.diagnosis.not_applied import (
    dropped_findings,
    still_findings,
)
from keras_gradguard.diagnosis.questions import (
    explain_jumps,
    explain_nonfinite,
    explain_zeros,
    unexplained,
)
from keras_gradguard.diagnosis.underflow import Underflow
from keras_gradguard.graph.trace import Step
from keras_gradguard.measure.figures import OverwrittenFigures
from keras_gradguard.measure.trends import Trends
from keras_gradguard.model.layers import runs_eagerly, state_of
from keras_gradguard.model.optimizers import is_overwritten
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.records.kinds import severity_of
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
from keras_gradguard.source.declared import Declarations

# A set of variables that changes from record to record is not replayed for
# ever.
_MOST_REPLAYS = 5
_NO_BATCH = "the batch of the bad step was not kept"


class Symptoms:
    """Follows the numbers of one training.

    Args:
        hook: The hook of the model.
        log: The `TrainingLog`.
        thresholds: The `Thresholds`.
        expected: The `Expected` variables without a gradient.
        log_dir: Folder for incidents, or `None` to write none.
    """

    def __init__(self, hook, log, thresholds, expected, log_dir=None):
        self._hook = hook
        self._model = hook.model
        self._log = log
        self._expected = expected
        self._log_dir = log_dir
        self._trends = Trends(thresholds)
        self._overwritten = OverwrittenFigures(is_overwritten)
        self._underflow = Underflow(hook, thresholds)
        self._patience = thresholds.patience
        self._num_bad, self._num_records, self._num_replays = 0, 0, 0
        self._asked, self._told, self._lost = set(), set(), set()

    def bad_step(self):
        """Explains the bad step that the probe has kept.

        Returns:
            `(findings, severity, step)`; no findings after the third one.
        """
        step = int(self._hook.latch()[0])
        weights, tensors, measured = self._hook.probe.bad_step()
        self._num_bad += 1
        if self._num_bad > MOST:
            return [], "warning", step
        batch = self._hook.batch()
        if self._model.steps_per_execution > 1:
            known = self._hook.data
            batch = None if tensors is None else packed_batch(known, tensors)
        hit = self._hit(measured)
        asked = self._step(batch)
        if batch is None:
            found = [unexplained(hit, _NO_BATCH)]
        else:
            is_xla = self._mode() == "xla"
            found = explain_nonfinite(asked, hit, weights, is_xla)
        severity = severity_of(len(hit), len(asked.paths))
        if self._log_dir is not None:
            known = self._incident(step, asked, weights, hit)
            found = self._keep(known, found, severity)
        fresh = [f for f in found if _cause(f) not in self._told]
        self._told |= set(map(_cause, found))
        return fresh, severity, step

    def _hit(self, measured):
        hit = set()
        for variables, figures in measured:
            paths = self._log.paths_of(variables)
            hit |= {
                path
                for path, row in zip(paths, figures, strict=True)
                if row[0] != UNMEASURED and row[-1] > 0
            }
        return hit

    def _incident(self, step, asked, weights, hit):
        variables = state_of(self._model)
        arrays, data = {}, asked.data
        return Incident(
            step=step,
            epoch=self._log.epoch,
            batch=None if data is None else packed(data, arrays),
            weights=tuple(
                tuple(stored(f"w{number}", value.numpy(), arrays))
                for number, (_, value) in enumerate(weights)
            ),
            names=tuple((v.path, tuple(v.shape)) for v in variables),
            paths=asked.paths,
            hit=tuple(path for path in asked.paths if path in hit),
            mode=self._mode(),
            arrays=arrays,
            dtype_policy=keras.config.dtype_policy().name,
        )

    def _mode(self):
        if runs_eagerly(self._model):
            return "eager"
        return "xla" if self._model.jit_compile else "graph"

    def _keep(self, known, found, severity):
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
            told = incident_summary(folder, known)
            self._log.outbox.incident(known.step, told)
        except OSError as error:
            self._log_dir = None
            warnings.warn(
                "GradHealthCallback cannot write the incident to its "
                f"`log_dir`; training goes on. {error}",
                UserWarning,
                stacklevel=2,
            )
        return found

    def jumps(self, may_jump=True):
        """Returns the `Finding`s of a loss that jumps on the last batch.

        Args:
            may_jump: Whether a loss of an eager step may do that, as far as
                is known; the graph of a compiled one tells.
        """
        batch, graph = self._hook.batch(), self._hook.graph
        is_ruled_out = runs_eagerly(self._model) and not may_jump
        if batch is None or is_ruled_out:
            return []
        return explain_jumps(self._step(batch), graph and graph())

    def may_rearm(self):
        """Returns whether another bad step would be a new one."""
        return self._num_bad < MOST and all(
            bool(tf.reduce_all(tf.math.is_finite(variable)))
            for variable in self._model.trainable_variables
        )

    def of_record(self, figures):
        """Says what a record and those before it show.

        Args:
            figures: The `Figures` of the variables, or `None`.

        Returns:
            A list of `Finding`s that are new.
        """
        self._num_records += 1
        moved_by_gradient = self._overwritten.without(figures, self._named)
        self._trends.add(moved_by_gradient, self._log.step)
        found = self._underflow.of_record(self._num_records, self._step)
        lost = (f.variables for f in found if f.cause == "float16")
        self._lost |= {path for paths in lost for path in paths}
        self._told |= self._lost
        found += [*self._zero(), *self._fading(), *self._still()]
        if self._num_records == self._patience:
            found += dropped_findings(
                self._step(self._hook.batch()), self._applied()
            )
        return self._expected.strip(found)

    def _zero(self):
        zero = [
            p
            for p in self._trends.zero()
            if not (self._expected.covers(p) or p in self._lost)
        ]
        noise = None if self._lost else self._trends.noise()
        if noise is not None and not zero:
            zero, noise = list(self._step(None).paths), 10.0 * noise
        is_new = bool(set(zero) - self._asked)
        if not is_new or self._num_replays >= _MOST_REPLAYS:
            return []
        batch = self._hook.batch()
        if batch is None:
            return []
        self._num_replays += 1
        self._asked |= set(zero)
        found = explain_zeros(self._step(batch), zero, noise or 0.0)
        self._told |= {path for f in found for path in f.variables}
        return found

    def _fading(self):
        findings, declared = [], self._declared()
        for sign in self._trends.symptoms():
            new = set(sign.paths) - self._told
            layer = sign.paths[0].rpartition("/")[0]
            if not new or (sign.kind, layer) in self._told:
                continue
            self._told |= {(sign.kind, layer), *sign.paths}
            findings.append(
                Finding(
                    kind=sign.kind,
                    cause=sign.kind,
                    layer=layer or None,
                    place=declared(sign.paths[0]),
                    variables=sign.paths,
                    evidence=sign.evidence,
                )
            )
        return findings

    def _still(self):
        still = [p for p in self._trends.still() if p not in self._told]
        if not still:
            return []
        self._told |= set(still)
        step = self._step(None)
        return still_findings(step, still, self._declared())

    def _declared(self):
        """Returns what gives the `Place` that declares a variable's layer."""
        declarations = Declarations(self._model)

        def place(path):
            variable = self._named().get(path)
            layer = path.rpartition("/")[0] or None
            return declarations.place(layer, variable=variable) or Place()

        return place

    def _named(self):
        step = self._step(None)
        return dict(zip(step.paths, step.variables, strict=True))

    def _applied(self):
        captures = self._hook.probe.captures
        return [v for capture in captures for v in capture.variables]

    def _step(self, batch):
        variables = tuple(self._model.trainable_variables)
        paths = self._log.paths_of(variables)
        evidence = step_evidence(self._model, batch)
        answers = self._hook.answers
        return Step(self._model, batch, variables, paths, evidence, answers)


def _cause(finding):
    place = finding.place
    return (finding.cause, finding.op, finding.layer, place.file, place.line)
