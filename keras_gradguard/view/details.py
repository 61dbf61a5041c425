"""The diagnoses, losses and incidents of a run.

A training that begins where another one was before makes void what that one
has written from there on: the code has been changed, and the run is made
anew. One that goes on behind it leaves it as it is.
"""

from keras_gradguard.records.text import (
    change_lines,
    explain_command,
    facts,
    headline,
    place,
)
from keras_gradguard.report.layout import DIAGNOSES, INCIDENTS, LOSSES
from keras_gradguard.view.decode import Decoder


def card_of(diagnosis):
    """Returns a diagnosis with what the console says of it.

    Args:
        diagnosis: A `Diagnosis`.

    Returns:
        What `Diagnosis.to_dict` returns and `headline`, `place` (or `None`),
        `facts` (pairs of label and text), `changes` (lines for each `help`),
        `more`, and `snippet_first_line` (or `None`).
    """
    start = diagnosis.evidence.get("snippet_start") or diagnosis.line
    has_place = diagnosis.file is not None
    return {
        **diagnosis.to_dict(),
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
        diagnoses: The `Diagnosis`es of all trainings.
        incidents: What `incident_summary` returned, of all.
        losses: What `layout.losses_record` returned of the last, or `None`.

    Raises:
        ReadError: If a record cannot be read.
    """

    def __init__(self, store, run, tags):
        decoder = Decoder(run)
        decoders = {
            DIAGNOSES: decoder.diagnoses,
            INCIDENTS: decoder.incidents,
            LOSSES: decoder.losses,
        }
        points = store.last(
            run, [t for t in tags if t.startswith(tuple(decoders))]
        )
        signed = {
            kind: [
                decode(t, p) for t, p in points.items() if t.startswith(kind)
            ]
            for kind, decode in decoders.items()
        }
        self._begins = [
            (one.started, one.begin) for ones in signed.values() for one in ones
        ]
        self.diagnoses = self._valid(signed[DIAGNOSES], lambda item: item.step)
        self.incidents, losses = (
            self._valid(signed[kind], lambda item: item["step"])
            for kind in (INCIDENTS, LOSSES)
        )
        self.losses = losses[-1] if losses else None

    def _valid(self, signed, step_of):
        """Returns the items that no later training has made void, in order."""
        return [
            item
            for one in sorted(signed, key=lambda one: (one.started, one.begin))
            for item in one.items
            if self._holds(one, step_of(item))
        ]

    def _holds(self, one, step):
        """Whether no later training has begun before the step of an item."""
        return step is None or all(
            step < begin for later, begin in self._begins if later > one.started
        )
