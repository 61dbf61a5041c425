"""What is known of one training so far, in memory and in its event file."""

import dataclasses

from keras_gradguard import measure
from keras_gradguard.capture import MISSING, UNMEASURED
from keras_gradguard.diagnosis.explain import diagnoses_of
from keras_gradguard.outbox import Outbox
from keras_gradguard.records import Report
from keras_gradguard.update_count import UpdateCount


class Logbook:
    """Collects diagnoses and norms; writes each as it comes.

    Args:
        model: The Keras model that trains.
        writer: A `SummaryWriter`, or `None` to write nothing.
        optimizers: See `UpdateCount`.

    Attributes:
        outbox: The `Outbox`.
    """

    def __init__(self, model, writer=None, optimizers=None):
        self.epoch = None
        self.optimizers = optimizers
        self._model = model
        self.outbox = Outbox(writer)
        self._diagnoses = {}
        self._rows = {}
        self._losses = self._optimizers = ()
        self._global_norm = self._step = None
        self._count = UpdateCount(model, optimizers)
        self.paths_of(())

    @property
    def report(self):
        """All that is known, as a `Report`."""
        return Report(
            diagnoses=tuple(self._diagnoses.values()),
            variables=tuple(
                row if len(rows) == 1 else dataclasses.replace(row, optimizer=n)
                for rows in self._rows.values()
                for n, row in rows.items()
            ),
            global_norm=self._global_norm,
            step=self._step,
            optimizers=self._optimizers,
            losses=self._losses_in_row_order(),
        )

    def _losses_in_row_order(self):
        wanted = [path for path, rows in self._rows.items() for _ in rows]
        return tuple(
            reach.in_order(paths, wanted) for paths, reach in self._losses
        )

    def see_optimizers(self, captures, num_replicas=1):
        """Notes how the optimizers treat their gradients.

        Args:
            captures: Name and `Capture` of each update of a step.
            num_replicas: How many replicas train.
        """
        self._optimizers = tuple(
            measure.optimizer_health(
                name, capture, self.paths_of(capture.variables), num_replicas
            )
            for name, capture in captures
        )

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
        paths = measure.unique_paths(known)
        names = dict(zip(map(id, known), paths, strict=True))
        for variable in known:
            path = names[id(variable)]
            if path not in self._rows:
                self._rows[path] = {None: measure.health(variable, path)}
        own = measure.unique_paths(variables)
        return tuple(
            names.get(id(variable), path)
            for variable, path in zip(variables, own, strict=True)
        )

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
        order = {path: number for number, path in enumerate(self._rows)}
        paths = sorted(diagnosis.variables, key=lambda p: order.get(p, -1))
        return dataclasses.replace(diagnosis, variables=tuple(paths))

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

    def now(self):
        """Returns the number of updates made so far."""
        return self._count.now()

    def lose(self, variable, path):
        """Notes that a variable gets no gradient."""
        row = measure.health(variable, path, MISSING, self.now())
        self._rows[path] = {None: row}

    def measure(self, measured, step=None):
        """Takes in the statistics of a step.

        Args:
            measured: What `Probe.read` returns; the updates may be `None`.
            step: Its number; by default the number of updates so far.

        Returns:
            `(rows, moved)`: the `VariableHealth` of each variable that was
            measured, the largest norm where it has several updates, and
            whether it has moved, both by path in model order.
        """
        self._step = self.now() if step is None else step
        rows, moved = {}, {}
        for variables, figures, updates, name in measured:
            paths = self.paths_of(variables)
            for number, path in enumerate(paths):
                if figures[number][0] == UNMEASURED:
                    continue
                ratio = None if updates is None else updates[number][0]
                if ratio is not None and ratio != UNMEASURED:
                    has_moved = bool(updates[number][1])
                    moved[path] = moved.get(path, False) or has_moved
                row = measure.health(
                    variables[number], path, figures[number], self._step, ratio
                )
                rows.setdefault(path, {})[name] = row
        for path, found in rows.items():
            known = self._rows.setdefault(path, {})
            known.pop(None, None)
            known.update(found)
        if rows:
            norms = [row.norm for f in rows.values() for row in f.values()]
            self._global_norm = measure.global_norm(norms)
        largest = {
            path: max(rows[path].values(), key=measure.size_of)
            for path in self._rows
            if path in rows
        }
        return largest, moved

    def record(self, measured, step=None):
        """Takes in the statistics of a step and writes them as one record.

        Args:
            measured: See `measure`.
            step: See `measure`.

        Returns:
            What `measure` returns.
        """
        rows, moved = self.measure(measured, step)
        if rows:
            numbers = measure.optimizer_numbers(self._optimizers)
            known = self.report.variables
            self.outbox.record(known, self._step, self._global_norm, numbers)
        return rows, moved

    def flush(self):
        """Puts everything on disk."""
        self.outbox.flush()

    def close(self):
        """Puts everything on disk and closes the event file."""
        self.outbox.close()
