"""Step 6 of 6: diagnoses in the words of the console, as JSON."""

from keras_gradguard.report import message
from keras_gradguard.stored import diagnosis_of
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
        "headline": message.headline(diagnosis),
        "place": message.place(diagnosis) if has_place else None,
        "facts": [list(fact) for fact in message.facts(diagnosis)],
        "changes": [message.change(item) for item in diagnosis.help],
        "more": message.more(diagnosis),
        "snippet_first_line": start if diagnosis.snippet else None,
    }
