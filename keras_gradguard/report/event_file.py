"""Step 5 of 5: one event file, written from Python without TensorFlow ops.

So a write is safe while a `tf.function` is being traced, and needs no thread.
"""

import contextlib
import itertools
import os
import socket
import time

from tensorboard.compat.proto import event_pb2

_file_numbers = itertools.count()


class EventFile:
    """Appends events to a file that is made at the first of them.

    After `close()`, the next event begins a new file. Whatever fails on the
    way to the disk is raised as `OSError` in the caller's thread.

    Args:
        folder: The run folder.

    Attributes:
        number: How many files have been begun.
    """

    def __init__(self, folder):
        self.folder = folder
        self.number = 0
        self._records = None

    @property
    def is_open(self):
        """Whether a file is open."""
        return self._records is not None

    def open(self):
        """Begins a new file if none is open."""
        if not self.is_open:
            self._open()

    def write(self, event):
        """Appends an event; the time of now is put into it.

        Args:
            event: An `Event` of TensorBoard.
        """
        self.open()
        event.wall_time = time.time()
        with _disk_errors(self.folder):
            self._records.write(event.SerializeToString())

    def flush(self):
        """Puts everything that was written on disk."""
        if self.is_open:
            with _disk_errors(self.folder):
                self._records.flush()

    def close(self):
        """Flushes and closes the file; does nothing when none is open."""
        records, self._records = self._records, None
        if records is None:
            return
        with _disk_errors(self.folder):
            records.close()

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
        self.number += 1
        self.write(event_pb2.Event(file_version="brain.Event:2"))


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
