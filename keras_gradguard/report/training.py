"""Step 5 of 5: which training of a run it is that tells something."""

import secrets
import time

from keras_gradguard.report import tab
from keras_gradguard.report.schema import VERSION


class Training:
    """Signs what is told, so that a later training can be told apart.

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
        text = tab.json_of({**self._known, **content})
        tab.add_text(event.summary, tag, text)
        return tag
