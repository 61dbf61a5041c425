"""Step 5 of 5, TensorBoard: numbers, text cards and what the tab reads."""

import os

from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.text import metadata as text_metadata

from keras_gradguard.cells import UNMEASURED
from keras_gradguard.report import tab
from keras_gradguard.report.eventfile import EventFile
from keras_gradguard.report.histograms import add_histograms
from keras_gradguard.report.recordevent import RecordEvent
from keras_gradguard.report.scalars import (
    HISTOGRAMS,
    RUN,
    checked_level,
    scalar_tags,
    scalar_values,
)
from keras_gradguard.report.schema import VERSION
from keras_gradguard.report.text import render_markdown
from keras_gradguard.report.window import Window


class SummaryWriter:
    """Writes gradients and diagnoses where TensorBoard finds them.

    The event file is made at the first write, so that nothing appears on
    disk when nothing was recorded. After `close()`, the next write begins a
    new file. Whatever fails on the way to the disk is raised as `OSError` in
    the caller's thread. What was written is on disk when a method returns.

    Args:
        log_dir: Folder given to `tensorboard --logdir`; the file goes into
            its run folder `gradients`.
        scalars: Which curves TensorBoard's own pages get, see
            `scalars.checked_level`.

    Attributes:
        has_histograms: Whether it is to get histograms too.

    Raises:
        ValueError: If `scalars` is none of them.

    Example:
    ```python
    writer = SummaryWriter("logs")
    schema = Schema(report.variables)
    writer.write_record(schema, record_of(report.variables, 0, 1.5))
    writer.close()
    ```
    """

    def __init__(self, log_dir, scalars="variables"):
        self.folder = os.path.join(os.fspath(log_dir), RUN)
        self.has_histograms = checked_level(scalars) == HISTOGRAMS
        self._level = "variables" if self.has_histograms else scalars
        self._file = EventFile(self.folder)
        self._window = Window()
        self._schema, self._events = None, {}
        self._known, self._number = set(), 0
        self._tags, self._diagnoses, self._incidents = {}, {}, []

    def write_record(self, schema, record, numbers=None):
        """Writes one record: a single event that holds every value.

        Args:
            schema: The `Schema` of the variables; the same object as long
                as they are the same.
            record: The `Record` of one step.
            numbers: Further numbers by name, or `None`.
        """
        if schema is not self._schema:
            self._write_pending()
            self._schema, self._events = schema, {}
        window = self._window.add(record)
        numbers = numbers or {}
        measured = record.norms != UNMEASURED
        key = (tuple(numbers), measured.tobytes(), window is not None)
        if key not in self._events:
            tags = scalar_tags(schema, self._level, measured, numbers)
            self._events[key] = RecordEvent(tags, schema, window is not None)
        values = scalar_values(schema, self._level, record, numbers.values())
        event = self._events[key].filled(record.step, values, window)
        self._write_of_schema(event, window)

    def write_diagnosis(self, step, diagnosis):
        """Writes a diagnosis: a card of the Text tab, and all for our tab.

        Args:
            step: Training step.
            diagnosis: The `Diagnosis` to show.
        """
        self._write_pending()
        event = event_pb2.Event(step=step)
        value = tab.add_text(
            event.summary, self._tag(diagnosis), render_markdown(diagnosis)
        )
        metadata = text_metadata.create_summary_metadata(None, None)
        value.metadata.CopyFrom(metadata)
        self._diagnoses[diagnosis.key] = tab.diagnosis_record(diagnosis)
        self._write_list(event, tab.DIAGNOSES, self._diagnoses.values())

    def write_histograms(self, step, histograms):
        """Writes the histograms of gradients, for TensorBoard's own page.

        Args:
            step: Training step.
            histograms: By the key of each variable, see
                `distribution.keyed`.
        """
        event = event_pb2.Event(step=step)
        add_histograms(event.summary, histograms)
        self._write(event)

    def write_losses(self, step, schema, losses):
        """Writes which loss reaches which variable.

        Args:
            step: Training step.
            schema: The `Schema` of the variables.
            losses: `LossReach`s, their columns in the order of the schema.
        """
        event = event_pb2.Event(step=step)
        known = tab.losses_record(schema, losses)
        tab.add_text(event.summary, tab.LOSSES, tab.json_of(known))
        self._write(event, tab.LOSSES)

    def write_incident(self, step, incident):
        """Writes where a step that was not finite has been kept.

        Args:
            step: Training step.
            incident: What is told of it, JSON-ready, see `incident.told`.
        """
        self._incidents.append(incident)
        event = event_pb2.Event(step=step)
        self._write_list(event, tab.INCIDENTS, self._incidents)

    def flush(self):
        """Puts everything that was written on disk."""
        self._file.flush()

    def close(self):
        """Flushes and closes the file; does nothing when none is open."""
        if self._file.is_open:
            self._write_pending()
        self._file.close()

    def _tag(self, diagnosis):
        """Returns the tag of a card: one per diagnosis, whatever the step."""
        if diagnosis.key not in self._tags:
            tag = f"{RUN}/diagnoses/{diagnosis.code}"
            count = 1 + sum(key[0] == diagnosis.code for key in self._tags)
            self._tags[diagnosis.key] = f"{tag}#{count}" if count > 1 else tag
        return self._tags[diagnosis.key]

    def _write_pending(self):
        """Writes a window that is not full yet."""
        window = self._window.take()
        if window is not None:
            event = RecordEvent((), self._schema, True)
            self._write_of_schema(event.filled(window.step, (), window), window)

    def _write_of_schema(self, event, window):
        """Writes the event of a record; the first one has the schema too."""
        if window is None:
            self._write(event)
            return
        schema, tags = self._schema, tab.vector_tags(self._schema, window)
        self._file.open()
        tag = tab.SCHEMA + schema.name
        if self._is_new(tag):
            event = _copied(event)
            tab.add_text(event.summary, tag, schema.text)
            tags = (*tags, tag)
        self._write(event, *tags)

    def _write_list(self, event, tag, items):
        content = {"version": VERSION, "items": list(items)}
        tab.add_text(event.summary, tag, tab.json_of(content))
        self._write(event, tag)

    def _is_new(self, tag):
        """Whether the present file has no value of this tag yet."""
        if self._file.number != self._number:
            self._known, self._number = set(), self._file.number
        return tag not in self._known

    def _write(self, event, *tags):
        """Writes an event; `tags` are those of it that our tab reads."""
        self._file.open()
        new = set(filter(self._is_new, tags))
        if new:
            event = _copied(event)
            tab.mark(event.summary, new)
            self._known |= new
        self._file.write(event)
        self._file.flush()


def _copied(event):
    copy = event_pb2.Event()
    copy.CopyFrom(event)
    return copy
