"""Files in a log folder, local or remote, by TensorBoard's own file layer.

That layer is TensorFlow's where TensorFlow is installed, so that folders such
as `gs://` work; elsewhere it is TensorBoard's stub, which knows local folders
and what `fsspec` knows.
"""

import contextlib
import os
import shutil
import stat

from tensorboard.compat import tf
from tensorboard.summary.writer.record_writer import RecordWriter


def open_file(path, mode="r"):
    """Opens a file to be read or written.

    Args:
        path: The file.
        mode: `"r"`, `"rb"`, `"w"` or `"wb"`.
    """
    return tf.io.gfile.GFile(path, mode)


def read_bounded(path, most):
    """Returns the bytes of a file that may be anything.

    Args:
        path: The file.
        most: How many bytes it may have.

    Raises:
        OSError: If it is larger, or no file: a pipe or a device may have no
            end.
    """
    if is_local(path):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path!r} is not a file")
        size = found.st_size
    else:
        size = tf.io.gfile.stat(path).length
    if size > most:
        raise OSError(
            f"{path!r} has {size:,} bytes, and no such file has more than "
            f"{most:,}"
        )
    with open_file(path, "rb") as file:
        return file.read()


def make_folder(path):
    """Makes a folder and those above it, where they do not exist yet."""
    tf.io.gfile.makedirs(path)


def exists(path):
    """Returns whether there is a file or folder."""
    return tf.io.gfile.exists(path)


def is_local(path):
    """Returns whether a path is one of this machine's file system."""
    return "://" not in os.fspath(path)


def identity(path):
    """Returns what tells a local file from another one of its name.

    Args:
        path: The file.

    Returns:
        `None` if there is no such file, or it is not a local one: to ask for
        that takes longer than to write.
    """
    if not is_local(path):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_folder(folder, files):
    """Writes a folder of files, whole or not at all.

    A local one is written under another name and renamed. A remote file
    appears when it is complete, so the last one tells that all are there.

    Args:
        folder: The folder, which does not exist yet.
        files: The bytes of each file by its name.

    Raises:
        OSError: If it cannot be written; nothing of it is left then.
    """
    beside = f"{folder}.{os.getpid()}.part" if is_local(folder) else folder
    with disk_errors(f"cannot write {folder!r}"):
        try:
            make_folder(beside)
            for name, content in files.items():
                with open_file(os.path.join(beside, name), "wb") as file:
                    file.write(content)
            if beside != folder:
                os.rename(beside, folder)
        except BaseException:
            if beside != folder:
                shutil.rmtree(beside, ignore_errors=True)
            raise


def open_records(path):
    """Begins a file of records, each with its length and checksums.

    Args:
        path: The file.

    Returns:
        An object with `write(bytes)`, `flush()` and `close()`.
    """
    # TensorBoard's own writer puts the same bytes on disk, but takes its
    # checksums in Python: 3 ms for a record of 6 kB, not 13 microseconds.
    native = getattr(tf.io, "TFRecordWriter", None)
    if native is not None:
        return native(path)
    return RecordWriter(open_file(path, "wb"))


@contextlib.contextmanager
def disk_errors(doing):
    """Turns whatever a file system says is wrong into an `OSError`.

    Args:
        doing: What cannot be done, the beginning of the message.

    Raises:
        OSError: If the block fails for the file system, also for a kind of
            folder that the file layer does not know.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{doing}: {error.message}") from error
    except (OSError, ValueError) as error:
        raise OSError(f"{doing}: {error}") from error
