"""The diagnosis as a card for TensorBoard's Text tab."""

import pathlib
import re

from keras_gradguard.records.text import (
    change_lines,
    count_lost,
    explain_command,
    facts,
    headline,
    help_text,
    place,
    snippet_lines,
    verdict_title,
)
from keras_gradguard.report.scalars import RUN

VERDICT_CARD = f"{RUN}/diagnoses/verdict"


def logged_cards(folder):
    """Returns the cards of a log folder as text, in the order of writing.

    Args:
        folder: Folder that was given as `log_dir`, or one above it.

    Returns:
        A text: each card in Markdown, below its run and step; the last
        verdict of each file behind its diagnoses.

    Raises:
        ValueError: If nothing was logged there.
    """
    folder = pathlib.Path(folder)
    files = sorted(
        folder.rglob("events.out.tfevents.*gradguard"),
        key=lambda file: (file.parent, file.stat().st_mtime),
    )
    if not files:
        raise ValueError(
            f"no GradHealthCallback log below {str(folder)!r}. Pass the folder "
            "that was given as `log_dir`"
        )
    cards = [card for file in files for card in _cards(file)]
    return "\n\n".join(cards) or f"no diagnosis below {folder}"


def _cards(file):
    # Slow to import, and a stored report does not need it.
    from tensorboard.backend.event_processing import event_file_loader

    verdict = None
    for event in event_file_loader.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if not value.tag.startswith(f"{RUN}/diagnoses/"):
                continue
            text = value.tensor.string_val[0].decode()
            card = f"{file.parent}, step {event.step}:\n\n{text}"
            if value.tag == VERDICT_CARD:
                verdict = card
            else:
                yield card
    if verdict is not None:
        yield verdict


def render_verdict(known):
    """Returns a verdict as Markdown.

    Args:
        known: What `layout.verdict_record` returns.
    """
    facts = [f"- {_prose(fact)}" for fact in known["facts"]]
    title = f"### Verdict: {verdict_title(known['verdict'])}"
    return "\n\n".join(filter(None, [title, "\n".join(facts)]))


# Emphasis, code and links; an underscore inside a word is none of them.
_MARKS = re.compile(r"[\\`*]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")


def render_markdown(diagnosis):
    """Returns one diagnosis as Markdown.

    Args:
        diagnosis: A `Diagnosis`.
    """
    parts = [f"### {_prose(headline(diagnosis))}"]
    if diagnosis.file is not None:
        parts.append(_code(place(diagnosis)))
    if snippet := snippet_lines(diagnosis):
        parts.append(_block(snippet))
    for label, text in facts(diagnosis):
        if label in ("lost", "hits"):
            parts.append(f"**{label}:** {count_lost(diagnosis)}")
            paths = [f"- {_code(path)}" for path in diagnosis.variables]
            parts.append("\n".join(paths))
        elif label in ("path", "data"):
            parts.append(f"**{label}:** {_code(text)}")
        else:
            parts.append(f"**{label}:** {_prose(text)}")
    for item in diagnosis.help:
        parts.append(f"**help:** {_prose(help_text(item))}")
        if change := change_lines(item):
            parts.append(_block(change))
    parts.append(f"**more:** {_code(explain_command(diagnosis))}")
    return "\n\n".join(filter(None, parts))


def _prose(text):
    """Keeps Markdown from reading `__init__`, `[x](y)` or HTML in words."""
    text = " ".join(text.split())
    # Where backticks do not pair up, Markdown pairs them another way.
    has_pairs = text.count("`") % 2 == 0 and "``" not in text
    parts = re.split(r"(`[^`]+`)", text) if has_pairs else [text]
    for index in range(0, len(parts), 2):
        words = _MARKS.sub(r"\\\g<0>", parts[index])
        # TensorBoard shows images of other servers.
        parts[index] = words.replace("<", "&lt;")
    return "".join(parts)


def _code(text):
    """Inline code, whatever backticks or line breaks the text holds."""
    text = " ".join(text.split())
    longest = _longest_run(text)
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"


def _block(lines):
    """A code block that no backticks in its lines can close."""
    text = "\n".join(lines)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def _longest_run(text):
    return max(map(len, re.findall("`+", text)), default=0)
