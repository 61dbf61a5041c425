"""One event file, written from Python without an op.

So a write is safe while a `tf.function` is being traced, and needs no thread.
"""

import contextlib
import itertools
import os
import socket
import time

from tensorboard.compat.proto import event_pb2

from keras_gradguard.report.files import (
    disk_errors,
    identity,
    make_folder,
    open_records,
)

_file_numbers = itertools.count()


class EventFile:
    """Appends events to a file that is made at the first of them.

    After `close()`, the next event begins a new file, and so it does where
    the one before was deleted or replaced: what is written to a file without
    a name is lost. Whatever fails on the way to the disk is raised as
    `OSError` in the caller's thread.

    Args:
        folder: The run folder.

    Attributes:
        number: How many files have been begun.
        num_deleted: How many of them were deleted while they were open.
    """

    def __init__(self, folder):
        self.folder = folder
        self.number = self.num_deleted = 0
        self._records = self._path = self._identity = None

    @property
    def is_open(self):
        """Whether a file is open."""
        return self._records is not None

    def open(self):
        """Begins a new file if none is open, or it was deleted."""
        if self.is_open and self._is_deleted():
            self.num_deleted += 1
            records, self._records = self._records, None
            # What it still holds goes nowhere.
            with contextlib.suppress(OSError), self._disk_errors():
                records.close()
        if not self.is_open:
            self._open()

    def _is_deleted(self):
        now, before = identity(self._path), self._identity
        if before is None:
            # A writer without TensorFlow makes it as it is first flushed.
            self._identity = now
        return before not in (None, now)

    def write(self, event):
        """Appends an event; the time of now is put into it.

        Args:
            event: An `Event` of TensorBoard.
        """
        self.open()
        event.wall_time = time.time()
        content = event.SerializeToString()
        with self._disk_errors():
            self._records.write(content)

    def flush(self):
        """Puts everything that was written on disk."""
        if self.is_open:
            with self._disk_errors():
                self._records.flush()

    def close(self):
        """Flushes and closes the file; does nothing when none is open."""
        records, self._records = self._records, None
        if records is None:
            return
        with self._disk_errors():
            records.close()

    def _open(self):
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
        with self._disk_errors():
            make_folder(self.folder)
            self._path = os.path.join(self.folder, name)
            self._records = open_records(self._path)
        self._identity = identity(self._path)
        self.number += 1
        self.write(event_pb2.Event(file_version="brain.Event:2"))

    def _disk_errors(self):
        return disk_errors(
            f"cannot write TensorBoard summaries to {self.folder!r}"
        )
