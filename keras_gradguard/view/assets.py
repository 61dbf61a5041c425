"""Step 6 of 6: the files of the page."""

import pathlib

FOLDER = pathlib.Path(__file__).parent / "static"
INDEX = "index.js"
_TYPES = {".js": "text/javascript", ".css": "text/css"}


def names():
    """Returns the names of all files that may be served, `INDEX` always."""
    found = FOLDER.iterdir() if FOLDER.is_dir() else ()
    known = {path.name for path in found if path.suffix in _TYPES}
    return sorted(known | {INDEX})


def read(name):
    """Returns the content of a file and its media type.

    Args:
        name: One of `names()`.

    Raises:
        LookupError: If the file is missing.
    """
    path = FOLDER / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LookupError(
            f"the file {name} of the Gradients tab is missing; install "
            "keras_gradguard anew"
        ) from error
    return content, _TYPES[path.suffix]
