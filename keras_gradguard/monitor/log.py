"""What is known of one training so far, in memory and in its event file."""

import dataclasses

import numpy as np

from keras_gradguard.diagnosis.wording import diagnoses_of
from keras_gradguard.measure.figures import figures_of, merged
from keras_gradguard.measure.rows import (
    HealthRows,
    global_norm,
    keyed,
    optimizer_health,
    optimizer_numbers,
    unique_paths,
)
from keras_gradguard.model.optimizers import optimizers_of
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
        outbox: The `EventOutput`.
        not_checked: A list of reasons why not all was checked, sentences.
    """

    def __init__(self, model, num_updates, writer=None, optimizers=None):
        self.epoch = None
        self.optimizers = optimizers
        self.not_checked = []
        self._model = model
        self.outbox = EventOutput(writer)
        self._diagnoses = {}
        self._rows = HealthRows()
        self._paths, self._health = {}, {}
        self._losses, self._optimizers = (), ()
        self._global_norm = self._step = None
        self._count = UpdateCount(model, num_updates, optimizers)
        self.paths_of(())

    @property
    def report(self):
        """All that is known, as a `Report`."""
        return Report(
            diagnoses=tuple(self._diagnoses.values()),
            variables=self._rows.rows(),
            global_norm=self._global_norm,
            step=self._step,
            optimizers=self._optimizers,
            losses=self._losses_in_row_order(),
            not_checked=" ".join(self.not_checked) or None,
        )

    def _losses_in_row_order(self):
        wanted = [row.path for row in self._rows.rows()]
        return tuple(r.in_order(paths, wanted) for paths, r in self._losses)

    def see_optimizers(self, captures, num_replicas=1):
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

    def reach(self, paths, losses):
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
            self.outbox.losses(self.now(), self.report.variables, known)

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
        return found, self.keep(found)

    def words(self, findings, severity, step=None):
        """Returns findings as a tuple of `Diagnosis`, and keeps none.

        Args:
            findings: See `add`.
            severity: See `add`.
            step: See `add`.
        """
        found = diagnoses_of(
            findings,
            len(self._model.trainable_variables),
            severity,
            step=self.now() if step is None else step,
            epoch=self.epoch,
        )
        return tuple(map(self._in_model_order, found))

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

    def keep(self, diagnoses):
        """Keeps and writes diagnoses; returns those that are new.

        What was a note and is more than that now is new once more.
        """
        fresh = [d for d in diagnoses if self._is_new(d)]
        for diagnosis in fresh:
            self._diagnoses[diagnosis.key] = diagnosis
            self.outbox.diagnosis(self.now(), diagnosis)
        return tuple(fresh)

    def _is_new(self, diagnosis):
        known = self._diagnoses.get(diagnosis.key)
        return known is None or "note" == known.severity != diagnosis.severity

    @property
    def step(self):
        """Number of the last record's step, `None` if it is not known."""
        return self._step

    def now(self):
        """Returns the number of updates made so far."""
        return self._count.now()

    def lose(self, variable, path):
        """Notes that a variable gets no gradient."""
        self._rows.add_missing(variable, path, self.now())

    def measure(self, measured, step=None):
        """Takes in the statistics of a step.

        Args:
            measured: What `Probe.read` returns; the updates may be `None`.
            step: Its number; by default the number of updates so far.

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
        if figures is not None and self.outbox.is_open:
            self.outbox.record(
                self._rows,
                self._step,
                self._global_norm,
                optimizer_numbers(self._optimizers),
            )
        return figures

    def record_histograms(self, measured, histograms):
        """Writes the histograms of a record.

        Args:
            measured: See `measure`.
            histograms: What `Probe.histograms` returns.
        """
        rows = keyed(measured, histograms, self.paths_of)
        self.outbox.histograms(self._step, rows)

    def flush(self):
        """Puts everything on disk."""
        self.outbox.flush()

    def close(self):
        """Puts everything on disk and closes the event file."""
        self.outbox.close()
