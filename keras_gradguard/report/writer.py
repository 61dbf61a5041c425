"""Writes records, diagnoses, incidents and the verdict for TensorBoard."""

import contextlib
import os
import secrets
import time
import warnings

from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.text import metadata as text_metadata

from keras_gradguard.records.norms import MISSING, UNMEASURED
from keras_gradguard.report.cards import (
    VERDICT_CARD,
    render_markdown,
    render_verdict,
)
from keras_gradguard.report.event_file import EventFile
from keras_gradguard.report.layout import (
    DIAGNOSES,
    INCIDENTS,
    LOSSES,
    SCHEMA,
    VERDICT,
    VERSION,
    Schema,
    add_record,
    add_text,
    diagnosis_record,
    json_of,
    losses_record,
    mark_for_tab,
    vector_tags,
    verdict_record,
)
from keras_gradguard.report.scalars import (
    HISTOGRAMS,
    RUN,
    add_histograms,
    checked_level,
    scalar_tags,
    scalar_values,
)
from keras_gradguard.report.thinning import Record, Window


class EventOutput:
    """Hands what is known to a writer; the first failure ends it, warned of.

    Args:
        writer: A `SummaryWriter`, or `None` to write nothing.
        warn: Called with a text and its category to warn.
    """

    def __init__(self, writer=None, warn=warnings.warn):
        self._writer = writer
        self._warn = warn
        self._schema = self._version = None
        self._has_told = False

    @property
    def is_open(self):
        """Whether anything is written."""
        return self._writer is not None

    def record(self, health, step, global_norm, numbers):
        """Writes the numbers of a step.

        Args:
            health: The `HealthRows` of the variables.
            step: The step.
            global_norm: Norm over all gradients, or `None`.
            numbers: Further numbers by name.
        """
        if health.version is not self._version:
            self._schema_of(health.rows())
            self._version = health.version
        norms, ratios = health.norm_values(step)
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
            histograms: See `measure.rows.keyed`.
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
            incident: JSON-ready dict, see `incident_summary`.
        """
        self._write("write_incident", step, incident)

    def verdict(self, step, report, has_ended):
        """Writes the verdict; the last one counts.

        Args:
            step: The step.
            report: The `Report`.
            has_ended: Whether the training is over.
        """
        if self.is_open:
            known = verdict_record(report, has_ended)
            self._write("write_verdict", step, known)

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
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                writer.abandon()
            self._warn(
                "GradHealthCallback cannot write to its `log_dir`; training "
                f"continues without TensorBoard records. {error}",
                UserWarning,
            )
            return
        if self._writer.num_deleted and not self._has_told:
            self._has_told = True
            self._warn(
                f"The event file in {self._writer.folder!r} was deleted while "
                "the training wrote to it: the records up to now are lost, "
                "and a new file is written.",
                UserWarning,
            )


class RecordEvent:
    """An event whose tags stay and whose numbers change.

    Args:
        tags: Tags of the scalars.
        schema: The `Schema` of the vectors.
        has_vectors: Whether it holds what our tab reads as well.
    """

    def __init__(self, tags, schema, has_vectors):
        self._schema = schema
        self._event = event_pb2.Event()
        add = self._event.summary.value.add
        self._scalars = [add(tag=tag) for tag in tags]
        self._num_scalars = len(self._scalars)
        self._has_vectors = has_vectors

    def filled(self, step, scalars, window):
        """Returns the event with new numbers; it is valid until the next.

        Args:
            step: The step.
            scalars: A number for each tag.
            window: The `Record` of the vectors, `None` if there are none.
        """
        self._event.step = step
        for value, number in zip(self._scalars, scalars, strict=True):
            value.simple_value = number
        if self._has_vectors:
            summary = self._event.summary
            del summary.value[self._num_scalars :]
            add_record(summary, self._schema, window)
        return self._event


class TrainingMark:
    """Signs what a training writes, so that a later one can be told apart.

    Args:
        begin: Number of updates that were made before it.
    """

    def __init__(self, begin):
        self._known = {
            "version": VERSION,
            "begin": int(begin),
            "started": time.time(),
        }
        self._name = secrets.token_hex(4)

    def add(self, event, kind, content):
        """Adds JSON to an event; returns its tag.

        Args:
            event: An `Event` of TensorBoard.
            kind: The beginning of the tag.
            content: A dict of JSON-ready values.
        """
        tag = kind + self._name
        text = json_of({**self._known, **content})
        add_text(event.summary, tag, text)
        return tag


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
    norms, ratios = np.array([1.5, 0.2]), np.array([1e-3, 1e-3])
    record = Record(0, 0, norms, ratios, global_norm=1.51)
    writer.write_record(Schema(report.variables), record)
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
        # By tag, what a new file needs as well if this one is deleted.
        self._lasting, self._num_deleted = {}, 0
        self._tags, self._diagnoses, self._incidents = {}, {}, []
        self._training = None

    @property
    def num_deleted(self):
        """How many event files were deleted while they were open."""
        return self._file.num_deleted

    def abandon(self):
        """Closes the file, and writes nothing more to it."""
        self._file.close()

    def write_record(self, schema, record, numbers=None):
        """Writes one record: a single event that holds every value.

        Args:
            schema: The `Schema` of the variables; the same object as long
                as they are the same.
            record: The `Record` of one step.
            numbers: Further numbers by name, or `None`.
        """
        self._begin(record.first_step - 1)
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
        self._begin(step)
        self._write_pending()
        event = event_pb2.Event(step=step)
        card = self._tag(diagnosis)
        _add_card(event, card, render_markdown(diagnosis))
        self._diagnoses[diagnosis.key] = diagnosis_record(diagnosis)
        self._write(event, self._add_diagnoses(event), lasts_as=card)

    def write_histograms(self, step, histograms):
        """Writes the histograms of gradients, for TensorBoard's own page.

        Args:
            step: Training step.
            histograms: By the key of each variable, see
                `measure.rows.keyed`.
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
        self._begin(step)
        event = event_pb2.Event(step=step)
        known = losses_record(schema, losses)
        tag = self._training.add(event, LOSSES, known)
        self._write(event, tag, lasts_as=tag)

    def write_incident(self, step, incident):
        """Writes where a step that was not finite has been kept.

        Args:
            step: Training step.
            incident: JSON-ready dict, see `incident_summary`.
        """
        self._begin(step)
        self._incidents.append(incident)
        event = event_pb2.Event(step=step)
        known = {"items": self._incidents}
        tag = self._training.add(event, INCIDENTS, known)
        self._write(event, tag, lasts_as=tag)

    def write_verdict(self, step, known):
        """Writes the verdict: a card of the Text tab, and all for our tab.

        Args:
            step: Training step.
            known: What `layout.verdict_record` returns.
        """
        self._begin(step)
        event = event_pb2.Event(step=step)
        _add_card(event, VERDICT_CARD, render_verdict(known))
        tag = self._training.add(event, VERDICT, known)
        self._write(event, tag, lasts_as=tag)

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
        """Writes the event of a record; the first one says what is in it."""
        if window is None:
            self._write(event)
            return
        schema, tags = self._schema, vector_tags(self._schema, window)
        self._file.open()
        tag = SCHEMA + schema.name
        if self._is_new(tag):
            event = _copied(event)
            add_text(event.summary, tag, schema.text)
            tags = (*tags, tag, self._add_diagnoses(event))
        self._write(event, *tags)

    def _begin(self, step):
        if self._training is None:
            self._training = TrainingMark(step)

    def _add_diagnoses(self, event):
        known = {"items": list(self._diagnoses.values())}
        return self._training.add(event, DIAGNOSES, known)

    def _is_new(self, tag):
        """Whether the present file has no value of this tag yet."""
        if self._file.number != self._number:
            self._known, self._number = set(), self._file.number
        return tag not in self._known

    def _write(self, event, *tags, lasts_as=None):
        """Writes an event; `tags` are those of it that our tab reads.

        With `lasts_as`, a tag, it is written again where a file is lost.
        """
        self._file.open()
        if self._num_deleted != self._file.num_deleted:
            self._num_deleted = self._file.num_deleted
            for known, its_tags in list(self._lasting.values()):
                self._append(known, its_tags)
        if lasts_as is not None:
            self._lasting[lasts_as] = event, tags
        self._append(event, tags)

    def _append(self, event, tags):
        new = set(filter(self._is_new, tags))
        if new:
            event = _copied(event)
            mark_for_tab(event.summary, new)
            self._known |= new
        self._file.write(event)
        self._file.flush()


def _add_card(event, tag, text):
    value = add_text(event.summary, tag, text)
    metadata = text_metadata.create_summary_metadata(None, None)
    value.metadata.CopyFrom(metadata)


def _copied(event):
    copy = event_pb2.Event()
    copy.CopyFrom(event)
    return copy
