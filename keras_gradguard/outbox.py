"""Step 5: what goes out to TensorBoard, as long as the disk takes it."""

import warnings

from keras_gradguard.cells import MISSING
from keras_gradguard.report.schema import Schema
from keras_gradguard.report.window import Record


class Outbox:
    """Hands what is known to a writer; the first failure ends it, warned of.

    Args:
        writer: A `SummaryWriter`, or `None` to write nothing.
    """

    def __init__(self, writer=None):
        self._writer = writer
        self._schema = self._layout = None

    @property
    def is_open(self):
        """Whether anything is written."""
        return self._writer is not None

    def record(self, ledger, step, global_norm, numbers):
        """Writes the numbers of a step.

        Args:
            ledger: The `Ledger` of the variables.
            step: The step.
            global_norm: Norm over all gradients, or `None`.
            numbers: Further numbers by name.
        """
        if ledger.layout is not self._layout:
            self._schema_of(ledger.rows())
            self._layout = ledger.layout
        norms, ratios = ledger.cells(step)
        record = Record(
            first_step=step,
            step=step,
            norms=norms,
            updates=ratios,
            global_norm=MISSING if global_norm is None else global_norm,
        )
        self._write("write_record", self._schema, record, numbers)

    def diagnosis(self, step, diagnosis):
        """Writes a diagnosis.

        Args:
            step: The step.
            diagnosis: The `Diagnosis`.
        """
        self._write("write_diagnosis", step, diagnosis)

    @property
    def has_histograms(self):
        """Whether histograms are to be written."""
        return self.is_open and self._writer.has_histograms

    def histograms(self, step, histograms):
        """Writes the histograms of gradients.

        Args:
            step: The step.
            histograms: See `distribution.keyed`.
        """
        self._write("write_histograms", step, histograms)

    def losses(self, step, rows, losses):
        """Writes which loss reaches which variable.

        Args:
            step: The step.
            rows: See `record`.
            losses: `LossReach`s, their columns in the order of `rows`.
        """
        self._write("write_losses", step, self._schema_of(rows), losses)

    def incident(self, step, incident):
        """Writes where a bad step has been kept.

        Args:
            step: The step.
            incident: JSON-ready dict, see `incident.told`.
        """
        self._write("write_incident", step, incident)

    def flush(self):
        """Puts everything on disk."""
        self._write("flush")

    def close(self):
        """Puts everything on disk and closes the event file."""
        self._write("close")

    def _schema_of(self, rows):
        """Returns the `Schema` of rows, the same as long as they are."""
        keys = tuple(row.key for row in rows)
        if self._schema is None or self._schema.keys != keys:
            self._schema = Schema(rows)
        return self._schema

    def _write(self, method, *values):
        if not self.is_open:
            return
        try:
            getattr(self._writer, method)(*values)
        except OSError as error:
            self._writer = None
            warnings.warn(
                "GradHealthCallback cannot write to its `log_dir`; training "
                f"goes on without TensorBoard records. {error}",
                UserWarning,
                stacklevel=3,
            )
