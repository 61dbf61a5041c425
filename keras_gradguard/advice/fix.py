"""The checked patches of a stored report, as a diff or written to files."""

import difflib
import io
import os
import tokenize

from keras_gradguard.records.report import digest_of


def file_patches(report):
    """Returns the checked patches of a report, by file.

    Args:
        report: A `Report`.

    Returns:
        A dict of file to its `Patch`es; each change once.
    """
    found = {}
    for diagnosis in report.diagnoses:
        for item in diagnosis.help:
            if item.patch is not None and item.checked is not None:
                known = found.setdefault(item.patch.file, [])
                if item.patch not in known:
                    known.append(item.patch)
    return found


def fixed(file, patches):
    """Returns the text of a file before and after some patches.

    Args:
        file: Path of the file.
        patches: `Patch`es of it, each of which was checked by itself; of two
            that change one line the first is taken, and of the other nothing.

    Returns:
        `(old, new)`.

    Raises:
        ValueError: If it is no Python file, cannot be read, or has changed
            since the patches were checked.
    """
    if not file.endswith(".py"):
        raise ValueError(f"{file} is not a Python file and was not changed")
    text, _ = _read(file)
    lines = list(io.StringIO(text, newline=""))
    # Python's cache of lines ends the last one, whatever the file does.
    universal = "".join(line.rstrip("\r\n") + "\n" for line in lines)
    if any(patch.digest != digest_of(universal) for patch in patches):
        raise ValueError(
            f"{file} has changed since its patches were checked; run the "
            "training again for new ones"
        )
    end, chosen, taken = "\r\n" if "\r\n" in text else "\n", [], set()
    for patch in patches:
        numbers = {
            number
            for line, old, _ in patch.changes
            for number in range(line, line + max(1, len(old)))
        }
        if not numbers & taken:
            taken |= numbers
            chosen += patch.changes
    for line, old, new in sorted(chosen, reverse=True):
        found = [text.rstrip("\r\n") for text in lines[line - 1 :][: len(old)]]
        if found != list(old):
            raise ValueError(f"{file} does not contain the patched line")
        lines[line - 1 : line - 1 + len(old)] = [one + end for one in new]
    return text, "".join(lines)


def unified_diff(file, old, new):
    """Returns the unified diff of a file, for `patch -p0` or a reader.

    Args:
        file: Its path.
        old: Its text.
        new: Its new text.
    """
    name = os.path.relpath(file)
    both = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(*both, name, name))


def write_fixed(file, new):
    """Writes the new text of a file, in its encoding, whole or not at all.

    Args:
        file: Its path; a link is followed.
        new: The text.

    Raises:
        ValueError: If the file cannot be written.
    """
    file = os.path.realpath(file)
    _, encoding = _read(file)
    beside = f"{file}.gradguard"
    try:
        with open(beside, "w", encoding=encoding, newline="") as other:
            other.write(new)
        os.chmod(beside, os.stat(file).st_mode)
        os.replace(beside, file)
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error}") from None


def _read(file):
    """Text of a Python file with its ends of lines, and its encoding."""
    try:
        with open(file, "rb") as source:
            content = source.read()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding), encoding
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {file}: {error}") from None
