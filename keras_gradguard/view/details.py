"""The diagnoses, losses and incidents of a run.

A training that begins where another one was before makes void what that one
has written from there on: the code has been changed, and the run is made
anew. One that goes on behind it leaves it as it is.
"""

from keras_gradguard.records.reading import diagnosis_of
from keras_gradguard.records.text import (
    change_lines,
    explain_command,
    facts,
    headline,
    place,
)
from keras_gradguard.report.layout import DIAGNOSES, INCIDENTS, LOSSES
from keras_gradguard.view.store import ReadError


def card_of(run, values):
    """Returns a diagnosis with what the console says of it.

    Args:
        run: Name of the run.
        values: What `Diagnosis.to_dict` returned.

    Returns:
        The same dict and `headline`, `place` (or `None`), `facts` (pairs of
        label and text), `changes` (lines for each `help`), `more`, and
        `snippet_first_line` (or `None`).

    Raises:
        ReadError: If it is no diagnosis, or one of a later schema.
    """
    try:
        diagnosis = diagnosis_of(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"run {run!r} holds a diagnosis that cannot be read: {error}"
        ) from error
    start = diagnosis.evidence.get("snippet_start") or diagnosis.line
    has_place = diagnosis.file is not None
    return {
        **values,
        "headline": headline(diagnosis),
        "place": place(diagnosis) if has_place else None,
        "facts": [list(fact) for fact in facts(diagnosis)],
        "changes": [change_lines(item) for item in diagnosis.help],
        "more": explain_command(diagnosis),
        "snippet_first_line": start if diagnosis.snippet else None,
    }


class Details:
    """Diagnoses, incidents and losses of a run.

    Args:
        store: A `Store`.
        run: Name of the run.
        tags: Names of the tags that it has.

    Attributes:
        diagnoses: What `Diagnosis.to_dict` returned, of all trainings.
        incidents: What `incident_summary` returned, of all.
        losses: What `layout.losses_record` returned of the last, or `None`.

    Raises:
        ReadError: If a record cannot be read.
    """

    def __init__(self, store, run, tags):
        self._run = run
        kinds = (DIAGNOSES, INCIDENTS, LOSSES)
        texts = store.texts(run, [t for t in tags if t.startswith(kinds)])
        self._begins = [self._begin(text) for text in texts.values()]
        self.diagnoses, self.incidents, losses = (
            [text for tag, text in texts.items() if tag.startswith(kind)]
            for kind in kinds
        )
        self.diagnoses = self._items(self.diagnoses)
        self.incidents = self._items(self.incidents)
        valid = [text for text in losses if self._holds(text, text)]
        self.losses = max(valid, key=self._begin, default=None)
        if self.losses is not None:
            self._list(self.losses, "terms")

    def _items(self, texts):
        return [
            item
            for text in sorted(texts, key=self._begin)
            for item in self._list(text, "items")
            if self._holds(text, item)
        ]

    def _holds(self, text, item):
        """Whether no later training has begun before the step of an item."""
        step = item.get("step") if isinstance(item, dict) else None
        if not isinstance(step, int):
            return True
        started, _ = self._begin(text)
        return all(
            step < begin for later, begin in self._begins if later > started
        )

    def _begin(self, text):
        known = text.get("started"), text.get("begin")
        if not all(isinstance(number, (int, float)) for number in known):
            raise self._broken("when its training has begun")
        return known

    def _list(self, text, name):
        items = text.get(name)
        if not isinstance(items, list):
            raise self._broken(f"no list {name!r}")
        return items

    def _broken(self, what):
        return ReadError(f"run {self._run!r} holds a broken record: {what}")
