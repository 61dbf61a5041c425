"""The diagnosis as a card for TensorBoard's Text tab."""

import re

from keras_gradguard.report import message

# Emphasis, code and links; an underscore inside a word is none of them.
_MARKS = re.compile(r"[\\`*]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])")


def render_markdown(diagnosis):
    """Returns one diagnosis as Markdown.

    Args:
        diagnosis: A `Diagnosis`.
    """
    parts = [f"### {_prose(message.headline(diagnosis))}"]
    if diagnosis.file is not None:
        parts.append(_code(message.place(diagnosis)))
    if snippet := message.snippet(diagnosis):
        parts.append(_block(snippet))
    for label, text in message.facts(diagnosis):
        if label == "lost":
            parts.append(f"**lost:** {message.count_lost(diagnosis)}")
            paths = [f"- {_code(path)}" for path in diagnosis.variables]
            parts.append("\n".join(paths))
        elif label in ("path", "data"):
            parts.append(f"**{label}:** {_code(text)}")
        else:
            parts.append(f"**{label}:** {_prose(text)}")
    for item in diagnosis.help:
        parts.append(f"**help:** {_prose(item.text)}")
        if change := message.change(item):
            parts.append(_block(change))
    parts.append(f"**more:** {_code(message.more(diagnosis))}")
    return "\n\n".join(filter(None, parts))


def _prose(text):
    """Keeps Markdown from reading `__init__` or `[x](y)` in plain words."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for index in range(0, len(parts), 2):
        parts[index] = _MARKS.sub(r"\\\g<0>", parts[index])
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
