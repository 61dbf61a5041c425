"""Step 5 of 5, TensorBoard: numbers and text cards into an event file.

Records go out from Python, without TensorFlow operations, so that a write is
safe while a `tf.function` is being traced, and without a thread of its own.
"""

import contextlib
import itertools
import math
import os
import socket
import time

from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
from tensorboard.plugins.text import metadata as text_metadata

from keras_gradguard.report.text import render_markdown

RUN = "gradients"
FLUSH_SECONDS = 5.0
LARGEST = 3.4028234e38  # of float32, which is what a scalar holds

_file_numbers = itertools.count()


class SummaryWriter:
    """Writes gradients and diagnoses where TensorBoard finds them.

    The event file is made at the first write, so that nothing appears on
    disk when nothing was recorded. After `close()`, the next write begins a
    new file. Whatever fails on the way to the disk is raised as `OSError` in
    the caller's thread.

    Args:
        log_dir: Folder given to `tensorboard --logdir`; the file goes into
            its run folder `gradients`.

    Example:
    ```python
    writer = SummaryWriter("logs")
    writer.write_norms(0, 1.5, {"dense/kernel": 1.5, "dense/bias": None})
    writer.close()
    ```
    """

    def __init__(self, log_dir):
        self.folder = os.path.join(os.fspath(log_dir), RUN)
        self._records = None
        self._next_flush = 0.0
        self._tags = {}

    def write_norms(self, step, global_norm, norms, numbers=None):
        """Writes one record: a single event that holds every value.

        Args:
            step: Training step.
            global_norm: Norm over all gradients, or `None`.
            norms: Norm of each variable's gradient by path; `None` where
                the gradient is missing. TensorBoard marks such a step, and
                one with NaN or Inf, with a triangle instead of a point;
                `count_missing` and `count_nonfinite` tell which it was.
            numbers: Further numbers by tag, or `None`.
        """
        summary = summary_pb2.Summary()
        values = {"global_norm": global_norm, **_counts(norms)}
        values |= {**(numbers or {}), **norms}
        for name, value in values.items():
            summary.value.add(
                tag=f"{RUN}/{name}", simple_value=_drawable(value)
            )
        self._write(step, summary)
        if time.monotonic() >= self._next_flush:
            self.flush()

    def write_diagnosis(self, step, diagnosis):
        """Writes a diagnosis as a card of the Text tab, at once to disk.

        Args:
            step: Training step.
            diagnosis: The `Diagnosis` to show.
        """
        metadata = text_metadata.create_summary_metadata(None, None)
        summary = summary_pb2.Summary()
        value = summary.value.add(tag=self._tag(diagnosis), metadata=metadata)
        value.tensor.dtype = types_pb2.DT_STRING
        value.tensor.tensor_shape.SetInParent()
        text = render_markdown(diagnosis)
        value.tensor.string_val.append(text.encode(errors="replace"))
        self._write(step, summary)
        self.flush()

    def flush(self):
        """Puts everything that was written on disk."""
        if self._records is None:
            return
        with _disk_errors(self.folder):
            self._records.flush()
        self._next_flush = time.monotonic() + FLUSH_SECONDS

    def close(self):
        """Flushes and closes the file; does nothing when none is open."""
        records, self._records = self._records, None
        if records is None:
            return
        with _disk_errors(self.folder):
            records.close()

    def _tag(self, diagnosis):
        """Returns the tag of a card: one per diagnosis, whatever the step."""
        if diagnosis.key not in self._tags:
            tag = f"{RUN}/diagnoses/{diagnosis.code}"
            count = 1 + sum(key[0] == diagnosis.code for key in self._tags)
            self._tags[diagnosis.key] = f"{tag}#{count}" if count > 1 else tag
        return self._tags[diagnosis.key]

    def _write(self, step, summary):
        if self._records is None:
            self._open()
        self._write_event(step=step, summary=summary)

    def _write_event(self, **fields):
        event = event_pb2.Event(wall_time=time.time(), **fields)
        with _disk_errors(self.folder):
            self._records.write(event.SerializeToString())

    def _open(self):
        import tensorflow as tf

        name = ".".join(
            (
                "events.out.tfevents",
                f"{int(time.time()):010d}",
                socket.gethostname(),
                str(os.getpid()),
                str(next(_file_numbers)),
                "gradguard",
            )
        )
        with _disk_errors(self.folder):
            tf.io.gfile.makedirs(self.folder)
            path = os.path.join(self.folder, name)
            self._records = tf.io.TFRecordWriter(path)
        self._write_event(file_version="brain.Event:2")


def _counts(norms):
    """Returns how many gradients are missing, zero and not finite."""
    present = [norm for norm in norms.values() if norm is not None]
    return {
        "count_missing": len(norms) - len(present),
        "count_zero": sum(norm == 0 for norm in present),
        "count_nonfinite": sum(not math.isfinite(norm) for norm in present),
    }


def _drawable(value):
    """Returns NaN for what is no finite number: Inf ruins a whole chart."""
    if value is None or not math.isfinite(value):
        return math.nan
    return min(value, LARGEST)


@contextlib.contextmanager
def _disk_errors(folder):
    """Turns what TensorFlow says of a file system into an `OSError`."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(
            f"cannot write TensorBoard summaries to {folder!r}: {error.message}"
        ) from error
