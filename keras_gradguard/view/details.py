"""The verdict, diagnoses, losses and incidents of a run.

A training that begins where another one was before makes void what that one
has written from there on: the code has been changed, and the run is made
anew. One that goes on behind it leaves it as it is. The verdict is that of the
last training.
"""

from keras_gradguard.records.text import (
    change_lines,
    explain_command,
    facts,
    headline,
    place,
    verdict_title,
)
from keras_gradguard.report.layout import (
    DIAGNOSES,
    INCIDENTS,
    LOSSES,
    VERDICT,
)
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
    """Verdict, diagnoses, incidents and losses of a run.

    Args:
        store: A `Store`.
        run: Name of the run.
        tags: Names of the tags that it has.

    Attributes:
        verdict: What `layout.verdict_record` returned of the last training,
            with the `title` and the first step where there were others
            before; `None` where it has none, as of an earlier version.
        cards: What `card_of` returns of all trainings, and `is_earlier`:
            whether it is of another one than the last.
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
            VERDICT: decoder.verdict,
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
        self._last = max(self._begins, default=(0, 0))
        self.verdict = self._verdict(signed[VERDICT])
        self.cards = [
            {**card_of(item), "is_earlier": started < self._last[0]}
            for started, item in self._valid(
                signed[DIAGNOSES], lambda item: item.step
            )
        ]
        self.incidents, losses = (
            [
                item
                for _, item in self._valid(
                    signed[kind], lambda item: item["step"]
                )
            ]
            for kind in (INCIDENTS, LOSSES)
        )
        self.losses = losses[-1] if losses else None

    def _verdict(self, signed):
        """Returns the verdict of the last training, or `None`."""
        started, begin = self._last
        found = [one for one in signed if one.started == started]
        if not found:
            return None
        (known,) = found[-1].items
        facts = known["facts"]
        # What was before it, and not made anew, is still shown.
        if any(first < begin for _, first in self._begins):
            facts = [*facts, f"the last training, from step {begin} on"]
        title = verdict_title(known["verdict"])
        return {**known, "title": title, "facts": facts}

    def _valid(self, signed, step_of):
        """Returns what no later training has made void, and its start."""
        return [
            (one.started, item)
            for one in sorted(signed, key=lambda one: (one.started, one.begin))
            for item in one.items
            if self._holds(one, step_of(item))
        ]

    def _holds(self, one, step):
        """Whether no later training has begun before the step of an item."""
        return step is None or all(
            step < begin for later, begin in self._begins if later > one.started
        )
