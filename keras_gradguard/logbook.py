"""What is known of one training so far, in memory and in its event file."""

import dataclasses
import warnings

from keras_gradguard import measure
from keras_gradguard.capture import MISSING, UNMEASURED
from keras_gradguard.diagnosis.explain import diagnoses_of
from keras_gradguard.diagnosis.internals import num_updates
from keras_gradguard.diagnosis.trace import optimizers_of
from keras_gradguard.records import Report


class Logbook:
    """Collects diagnoses and norms; writes each as it comes.

    Args:
        model: The Keras model that trains.
        writer: A `SummaryWriter`, or `None` to write nothing.
        optimizers: The optimizers whose updates count, a list that may grow;
            by default those that the model holds.
    """

    def __init__(self, model, writer=None, optimizers=None):
        self.epoch = None
        self.optimizers = optimizers
        self._model = model
        self._writer = writer
        self._diagnoses = {}
        self._rows = {}
        self._global_norm = None
        self._step = None
        self._optimizers = ()
        self.paths_of(())

    @property
    def report(self):
        """All that is known, as a `Report`."""
        return Report(
            diagnoses=tuple(self._diagnoses.values()),
            variables=tuple(self._rows.values()),
            global_norm=self._global_norm,
            step=self._step,
            optimizers=self._optimizers,
        )

    def see_optimizers(self, captures, num_replicas=1):
        """Notes how the optimizers treat their gradients.

        Args:
            captures: The `Capture`s of the training.
            num_replicas: How many replicas train.
        """
        names = measure.unique_names(capture.optimizer for capture in captures)
        self._optimizers = tuple(
            measure.optimizer_health(
                name, capture, self.paths_of(capture.variables), num_replicas
            )
            for name, capture in zip(names, captures, strict=True)
        )

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
            self._rows.setdefault(path, measure.health(variable, path))
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
        """Keeps and writes diagnoses; returns those that are new."""
        fresh = [d for d in diagnoses if d.key not in self._diagnoses]
        for diagnosis in fresh:
            self._diagnoses[diagnosis.key] = diagnosis
            self._write("write_diagnosis", self.now(), diagnosis)
        return tuple(fresh)

    def now(self):
        """Returns the number of updates made so far."""
        optimizers = self.optimizers
        if optimizers is None:
            optimizers = optimizers_of(self._model)
        counts = map(num_updates, optimizers)
        return max(counts, default=None)

    def lose(self, variable, path):
        """Notes that a variable gets no gradient."""
        self._rows[path] = measure.health(variable, path, MISSING, self.now())

    def measure(self, measured, step=None):
        """Takes in the statistics of a step.

        Args:
            measured: `(variables, statistics, updates)` of each optimizer:
                what `Capture.read` and `UpdateCapture.read` return; the
                updates may be `None`.
            step: Its number; by default the number of updates so far.

        Returns:
            `(rows, moved)`: the `VariableHealth` of each variable that was
            measured and whether it has moved, both by path in model order.
        """
        self._step = self.now() if step is None else step
        rows, moved = {}, {}
        for variables, figures, updates in measured:
            paths = self.paths_of(variables)
            for number, path in enumerate(paths):
                if figures[number][0] == UNMEASURED:
                    continue
                ratio = None if updates is None else updates[number][0]
                if ratio is not None and ratio != UNMEASURED:
                    moved[path] = bool(updates[number][1])
                rows[path] = self._rows[path] = measure.health(
                    variables[number], path, figures[number], self._step, ratio
                )
        if rows:
            norms = [row.norm for row in rows.values()]
            self._global_norm = measure.global_norm(norms)
        ordered = {path: rows[path] for path in self._rows if path in rows}
        return ordered, moved

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
            norms = {path: row.norm for path, row in rows.items()}
            self._write(
                "write_norms",
                self._step,
                self._global_norm,
                norms,
                measure.optimizer_numbers(self._optimizers),
            )
        return rows, moved

    def flush(self):
        """Puts everything on disk."""
        self._write("flush")

    def close(self):
        """Puts everything on disk and closes the event file."""
        self._write("close")

    def _write(self, method, *values):
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*values)
        except OSError as error:
            self._writer = None
            warnings.warn(
                "GradHealthCallback cannot write to its `log_dir`; training "
                f"goes on without TensorBoard records. {error}",
                UserWarning,
                stacklevel=2,
            )
