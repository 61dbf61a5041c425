"""What is known of one training so far, in memory and in its event file."""

import contextlib
import dataclasses

import numpy as np

from keras_gradguard.advice.patches import Patches
from keras_gradguard.backend import step_evidence
from keras_gradguard.diagnosis.wording import diagnoses_of
from keras_gradguard.errors import patch_barrier, warn
from keras_gradguard.graph.trace import Step
from keras_gradguard.measure.figures import figures_of, merged
from keras_gradguard.measure.rows import (
    HealthRows,
    global_norm,
    keyed,
    optimizer_health,
    optimizer_numbers,
    unique_paths,
)
from keras_gradguard.model.optimizers import optimizers_of, updating
from keras_gradguard.monitor.verdict import RowVerdicts
from keras_gradguard.records.norms import MISSING, UNMEASURED
from keras_gradguard.records.report import Report
from keras_gradguard.report.writer import EventOutput


class UpdateCount:
    """Counts the updates of one training.

    Args:
        model: The Keras model that trains.
        num_updates: Returns how many updates an optimizer has made.
        optimizers: The optimizers whose updates count, a list that may grow;
            by default those that the model holds.
    """

    def __init__(self, model, num_updates, optimizers=None):
        self._model, self._num_updates = model, num_updates
        # Those that are hooked are the ones that it holds now.
        self._optimizers = optimizers
        if optimizers is None:
            self._optimizers = optimizers_of(model)
        self._begun = self._counts()

    def now(self):
        """Returns the number of updates made so far, `None` if not known.

        An optimizer that takes no part, as that of a trained model inside,
        does not count.
        """
        counts = self._counts()
        moved = [n for key, n in counts.items() if n != self._begun.get(key)]
        own = getattr(self._model, "optimizer", None)
        first = next(iter(counts.values()), None)
        return max(moved, default=counts.get(id(own), first))

    def _counts(self):
        return {id(o): self._num_updates(o) for o in self._optimizers}


class TrainingLog:
    """Collects diagnoses and norms; writes each as it comes.

    Args:
        model: The Keras model that trains.
        num_updates: See `UpdateCount`.
        writer: A `SummaryWriter`, or `None` to write nothing.
        optimizers: See `UpdateCount`.

    Attributes:
        events: The `EventOutput`.
        not_checked: A list of reasons why not all was checked, sentences.
        verdicts: The `RowVerdicts` of the training.
        progress: `None`, or has `num_done` and `num_skipped`: how many steps
            are done, and how many of them were left out, see `Report`.
        num_records: How many records there are.
        patches: The `Patches` of the user's lines.
        norms: The smallest and the largest global norm of them that is
            finite, or `None`.
    """

    def __init__(self, model, num_updates, writer=None, optimizers=None):
        self.epoch = None
        self.optimizers = optimizers
        self.not_checked = []
        self.verdicts = RowVerdicts()
        self.progress = None
        self.num_records, self.norms = 0, None
        self.patches = Patches()
        self.patches.barrier = patch_barrier()
        self._model = model
        self.events = EventOutput(writer, warn)
        self._diagnoses = {}
        self._rows = HealthRows()
        self._paths, self._health = {}, {}
        self._losses, self._optimizers = (), ()
        self._global_norm = self._step = self._reading = None
        self._has_written = False
        self._count = UpdateCount(model, num_updates, optimizers)
        self.paths_of(())

    @property
    def report(self):
        """All that is known, as a `Report`."""
        diagnoses = tuple(self._diagnoses.values())
        rows, undecided = self._rows.rows(), ()
        reasons = list(self.not_checked)
        num_steps, num_skipped = None, None
        if self.progress is not None:
            num_steps = self.progress.num_done
            num_skipped = self.progress.num_skipped
        if not diagnoses:
            reasons.append(self.verdicts.not_checked(rows, num_steps))
        not_checked = " ".join(filter(None, reasons)) or None
        if not_checked is None or self._step is not None:
            rows, undecided = self.verdicts.decide(rows, diagnoses, self._step)
        return Report(
            diagnoses=diagnoses,
            variables=rows,
            global_norm=self._global_norm,
            step=self._step,
            optimizers=self._optimizers,
            losses=self._losses_in_row_order(),
            not_checked=not_checked,
            undecided=undecided,
            num_steps=num_steps,
            num_skipped=num_skipped,
        )

    def _losses_in_row_order(self):
        wanted = [row.path for row in self._rows.rows()]
        return tuple(r.in_order(paths, wanted) for paths, r in self._losses)

    def note_optimizers(self, captures, num_replicas=1):
        """Notes how the optimizers treat their gradients.

        Args:
            captures: Name and `OptimizerCapture` of each update of a step.
            num_replicas: How many replicas train.
        """
        for name, capture in captures:
            if capture not in self._health or capture.treatment.changes:
                paths = self._paths_of_all(capture.variables)
                self._health[capture] = optimizer_health(
                    name, capture, paths, num_replicas
                )
        self._health = {c: self._health[c] for _, c in captures}
        self._optimizers = tuple(self._health.values())

    def note_reaches(self, paths, losses):
        """Takes in which term of the loss reaches which variable.

        Args:
            paths: Paths of variables.
            losses: A `LossReach` for each term, in the order of `paths`; a
                loss of one term is left out.
        """
        several = losses if len(losses) > 1 else ()
        self._losses = tuple((paths, reach) for reach in several)
        if several:
            known = self._losses_in_row_order()
            self._begin_events(self.now())
            self.events.losses(self.now(), self.report.variables, known)

    def paths_of(self, variables):
        """Returns the unique paths of some variables of the training.

        Args:
            variables: Keras or TensorFlow variables.
        """
        known = list(self._model.trainable_variables)
        paths = unique_paths(known)
        names = dict(zip(map(id, known), paths, strict=True))
        for variable in known:
            self._rows.add(variable, names[id(variable)])
        own = unique_paths(variables)
        return tuple(
            names.get(id(variable), path)
            for variable, path in zip(variables, own, strict=True)
        )

    def step_on(self, batch, answers):
        """Returns a `Step` of all trainable variables of the model.

        Args:
            batch: The batch as `train_step` gets it, or `None`.
            answers: See `Step.answers`.
        """
        variables = tuple(self._model.trainable_variables)
        paths = self.paths_of(variables)
        # Made anew: the weights are others than those of the step before.
        evidence = step_evidence(self._model, batch)
        step = Step(self._model, batch, variables, paths, evidence, answers)
        if batch is not None:
            self.patches.step, self.patches.weights = step, ()
        return step

    def _paths_of_all(self, variables):
        """The paths of what one optimizer trains, looked up once."""
        known = self._paths.get(id(variables))
        if known is None or known[0] is not variables:
            known = variables, self.paths_of(variables)
            # An eager step may make ever other updates.
            self._paths = {} if len(self._paths) > 99 else self._paths
            self._paths[id(variables)] = known
        return known[1]

    def add(self, findings, severity, step=None):
        """Puts findings into words and keeps what is new of them.

        Args:
            findings: `Finding`s.
            severity: One of `records.SEVERITIES`.
            step: Step that they are about; by default the one of now.

        Returns:
            `(all, fresh)`: tuples of `Diagnosis`.
        """
        found = self.words(findings, severity, step)
        return found, self.note(found)

    def words(self, findings, severity, step=None):
        """Returns findings as a tuple of `Diagnosis`, and keeps none.

        Args:
            findings: See `add`.
            severity: See `add`.
            step: See `add`.
        """
        optimizer = self._optimizer()
        found = diagnoses_of(
            [dataclasses.replace(f, optimizer=optimizer) for f in findings],
            len(self._model.trainable_variables),
            severity,
            step=self.now() if step is None else step,
            epoch=self.epoch,
            patches=self.patches,
        )
        return tuple(map(self._in_model_order, found))

    def _optimizer(self):
        """The class name of the one optimizer, `None` of several or none."""
        names = {
            type(updating(optimizer)).__name__
            for optimizer in optimizers_of(self._model)
        }
        return names.pop() if len(names) == 1 else None

    def _in_model_order(self, diagnosis):
        order = self._rows.order
        paths = sorted(diagnosis.variables, key=lambda p: order.get(p, -1))
        number = diagnosis.num_variables
        if any(path not in order for path in paths):
            # Those that Keras does not know are no trainable variables of it.
            own = {variable.path for variable in self._model.variables}
            number += sum(p not in order and p not in own for p in paths)
        return dataclasses.replace(
            diagnosis, variables=tuple(paths), num_variables=number
        )

    def note(self, diagnoses):
        """Keeps and writes diagnoses; returns those that are new.

        What was a note and is more than that now is new once more. One that
        is known is extended by the variables that it hits now.
        """
        fresh = [d for d in diagnoses if self._is_new(d)]
        extended = map(self._extended, (d for d in diagnoses if d not in fresh))
        written = [*fresh, *(d for d in extended if d is not None)]
        for diagnosis in written:
            self._diagnoses[diagnosis.key] = diagnosis
        self._write_diagnoses(written)
        return tuple(fresh)

    def _extended(self, diagnosis):
        """A known diagnosis with new variables, `None` if there are none."""
        known = self._diagnoses[diagnosis.key]
        both = tuple(dict.fromkeys((*known.variables, *diagnosis.variables)))
        if len(both) == len(known.variables) or known.severity == "note":
            return None
        severity = known.severity
        if len(both) == known.num_variables:
            severity = "error"
        return dataclasses.replace(known, variables=both, severity=severity)

    def raise_to_error(self, kind, note):
        """Makes errors of what was found.

        Args:
            kind: The kind of the diagnoses.
            note: What is known now.

        Returns:
            The diagnoses that have become errors.
        """
        raised = []
        for key, diagnosis in self._diagnoses.items():
            if diagnosis.kind == kind:
                evidence = dict(diagnosis.evidence)
                evidence["notes"] = [*evidence.get("notes", ()), note]
                self._diagnoses[key] = dataclasses.replace(
                    diagnosis, severity="error", evidence=evidence
                )
                raised.append(self._diagnoses[key])
        self._write_diagnoses(raised)
        return raised

    def _write_diagnoses(self, diagnoses):
        for diagnosis in diagnoses:
            self.events.diagnosis(self.now(), diagnosis)
        if diagnoses:
            self._write_verdict_so_far(self.now())

    def _begin_events(self, step):
        """The first thing that is written says that there is no verdict."""
        if not self._has_written:
            self._write_verdict_so_far(step)

    def _write_verdict_so_far(self, step):
        if self.events.is_open:
            # A step may be traced now: then no number of it can be read.
            so_far = Report(diagnoses=tuple(self._diagnoses.values()))
            self._write_verdict(step, so_far, has_ended=False)

    def write_verdict(self, is_whole):
        """Writes the verdict of a training that is over.

        One that has failed before its first step leaves nothing on disk.

        Args:
            is_whole: Whether it has come to its end.
        """
        if self.events.is_open:
            report = self.report
            if is_whole or self._has_written or report.num_steps:
                self._write_verdict(self.now(), report, has_ended=True)

    def _write_verdict(self, step, report, has_ended):
        self._has_written = True
        # A model without an optimizer counts no updates.
        self.events.verdict(step or 0, report, has_ended)

    def _is_new(self, diagnosis):
        known = self._diagnoses.get(diagnosis.key)
        return known is None or "note" == known.severity != diagnosis.severity

    @property
    def step(self):
        """Number of the last record's step, `None` if it is not known."""
        return self._step

    def num_updates(self):
        """Returns the number of updates made so far."""
        return self._count.now()

    def now(self):
        """Returns the number of the step that is looked at, from 0.

        While it runs that is the number of updates made before it; a record
        that is read later has its own.
        """
        return self._count.now() if self._reading is None else self._reading

    @contextlib.contextmanager
    def reading(self, step):
        """What is found while the block runs is about one record.

        Args:
            step: Its step.
        """
        self._reading = step
        try:
            yield
        finally:
            self._reading = None

    def note_missing(self, variable, path):
        """Notes that a variable gets no gradient."""
        self._rows.add_missing(variable, path, self.now())

    def measure(self, measured, step=None):
        """Takes in the statistics of a step.

        Args:
            measured: What `Probe.read` returns; the updates may be `None`.
            step: Its number; by default that of `now`.

        Returns:
            The `Figures` of the variables that were measured, or `None`.
        """
        self._step = self.now() if step is None else step
        found, norms = [], []
        for variables, statistics, updates, name in measured:
            paths = self._paths_of_all(variables)
            is_there = statistics[:, 0] != UNMEASURED
            if not is_there.any():
                continue
            if not is_there.all():
                places = np.flatnonzero(is_there)
                variables = tuple(variables[n] for n in places)
                paths = tuple(paths[n] for n in places)
                statistics = statistics[places]
                updates = None if updates is None else updates[places]
            self._rows.add_record(
                name, variables, paths, statistics, updates, self._step
            )
            found.append(figures_of(paths, statistics, updates))
            norms.append(statistics[:, 0])
        if not found:
            return None
        norms = np.concatenate(norms)
        self._global_norm = global_norm(norms[norms != MISSING])
        self.num_records += 1
        if self._global_norm is not None and np.isfinite(self._global_norm):
            known = (*(self.norms or ()), self._global_norm)
            self.norms = min(known), max(known)
        return merged(found, self._rows)

    def record(self, measured, step=None):
        """Takes in the statistics of a step and writes them as one record.

        Args:
            measured: See `measure`.
            step: See `measure`.

        Returns:
            What `measure` returns.
        """
        figures = self.measure(measured, step)
        if figures is not None and self.events.is_open:
            numbers = optimizer_numbers(self._optimizers)
            skipped = getattr(self.progress, "num_skipped", None)
            if skipped is not None:
                numbers["skipped_steps"] = skipped
            self._begin_events(self._step)
            self.events.record(
                self._rows, self._step, self._global_norm, numbers
            )
        return figures

    def record_histograms(self, measured, histograms):
        """Writes the histograms of a record.

        Args:
            measured: See `measure`.
            histograms: What `Probe.histograms` returns.
        """
        rows = keyed(measured, histograms, self.paths_of)
        self.events.histograms(self._step, rows)

    def flush(self):
        """Puts everything on disk."""
        self.events.flush()

    def close(self):
        """Puts everything on disk and closes the event file."""
        # It knows the hook, and with it the model.
        self.patches = Patches()
        self.events.close()
