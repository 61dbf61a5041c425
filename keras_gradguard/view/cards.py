"""Step 6 of 6: diagnoses in the words of the console, as JSON."""

from keras_gradguard.report import message


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
        "headline": message.headline(diagnosis),
        "place": message.place(diagnosis) if has_place else None,
        "facts": [list(fact) for fact in message.facts(diagnosis)],
        "changes": [message.change(item) for item in diagnosis.help],
        "more": message.more(diagnosis),
        "snippet_first_line": start if diagnosis.snippet else None,
    }
