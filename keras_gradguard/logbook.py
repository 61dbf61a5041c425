"""What is known of one training so far, in memory and in its event file."""

import dataclasses
import warnings

from keras_gradguard import measure
from keras_gradguard.capture import MISSING, UNMEASURED
from keras_gradguard.diagnosis.explain import diagnoses_of
from keras_gradguard.diagnosis.internals import num_updates
from keras_gradguard.records import Report


class Logbook:
    """Collects diagnoses and norms; writes each as it comes.

    Args:
        model: The Keras model that trains.
        writer: A `SummaryWriter`, or `None` to write nothing.
    """

    def __init__(self, model, writer=None):
        self.epoch = None
        self._model = model
        self._writer = writer
        self._diagnoses = {}
        self._rows = {}
        self._global_norm = None
        self._step = None
        self.paths_of(())

    @property
    def report(self):
        """All that is known, as a `Report`."""
        return Report(
            diagnoses=tuple(self._diagnoses.values()),
            variables=tuple(self._rows.values()),
            global_norm=self._global_norm,
            step=self._step,
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

    def add(self, findings, severity):
        """Puts findings into words and keeps what is new of them.

        Args:
            findings: `Finding`s.
            severity: One of `records.SEVERITIES`.

        Returns:
            `(all, fresh)`: tuples of `Diagnosis`.
        """
        number = len(self._model.trainable_variables)
        found = diagnoses_of(
            findings, number, severity, step=self.now(), epoch=self.epoch
        )
        found = tuple(map(self._in_model_order, found))
        return found, self.keep(found)

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
        optimizer = getattr(self._model, "optimizer", None)
        return None if optimizer is None else num_updates(optimizer)

    def lose(self, variable, path):
        """Notes that a variable gets no gradient."""
        self._rows[path] = measure.health(variable, path, MISSING, self.now())

    def measure(self, measured):
        """Takes in the norms of a step.

        Args:
            measured: `(variables, norms)` of each optimizer, the norms as
                `capture.norms` has them.

        Returns:
            The norms by path, `capture.MISSING` for no gradient.
        """
        self._step = self.now()
        norms = {}
        for variables, values in measured:
            for variable, path, norm in zip(
                variables,
                self.paths_of(variables),
                map(float, values),
                strict=True,
            ):
                if norm != UNMEASURED:
                    norms[path] = norm
                    row = measure.health(variable, path, norm, self._step)
                    self._rows[path] = row
        if norms:
            self._global_norm = measure.global_norm(norms.values())
        return norms

    def record(self, measured):
        """Takes in the norms of a step and writes them as one record.

        Args:
            measured: See `measure`.
        """
        norms = self.measure(measured)
        if norms:
            written = {k: None if v == MISSING else v for k, v in norms.items()}
            self._write("write_norms", self._step, self._global_norm, written)

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
