"""The one renderer for terminals, exceptions and logs."""

import textwrap

from keras_gradguard.records import SEVERITIES, STATUSES
from keras_gradguard.report import message
from keras_gradguard.report.markdown import render_markdown
from keras_gradguard.report.matrix import render_matrix

__all__ = ["render", "render_markdown", "render_report"]

MOST_ROWS = 20


def render(diagnosis, width=80):
    """Returns the message of one diagnosis, ASCII but for the user's code.

    Args:
        diagnosis: A `Diagnosis`.
        width: Columns to which prose is wrapped; source lines are not cut.
    """
    snippet = message.snippet(diagnosis)
    margin = " " * (snippet[0].index(" |") if snippet else 3)
    lines = _wrap("", message.headline(diagnosis), width, hang=6)
    if diagnosis.file is not None:
        lines.append(f"{margin[1:]}--> {message.place(diagnosis)}")
    if snippet:
        lines += [f"{margin}|", *snippet, f"{margin}|"]
    for label, text in message.facts(diagnosis):
        lines += _wrap(f"{margin}= {label + ':':<5} ", text, width)
    for item in diagnosis.help:
        lines += _wrap("help: ", item.text, width)
        lines += [f"{margin}{line}" for line in message.change(item)]
    lines.append(f"more: {message.more(diagnosis)}")
    return "\n".join(lines)


def render_report(report, width=80):
    """Returns all diagnoses of a report, a summary and its tables.

    Args:
        report: A `Report`.
        width: Columns to which prose is wrapped.
    """
    parts = [render(diagnosis, width) for diagnosis in report.diagnoses]
    summary = _wrap("report: ", _summary(report), width)
    if report.not_checked is not None:
        summary += _wrap("   = why:  ", report.not_checked, width)
    for optimizer in report.optimizers:
        if len(report.optimizers) > 1 or optimizer.is_special:
            summary += _wrap("optimizer ", str(optimizer), width, hang=3)
    parts.append("\n".join(summary + _table(report.variables)))
    if matrix := render_matrix(report, MOST_ROWS):
        parts.append("\n".join(matrix))
    return "\n\n".join(parts)


def _summary(report):
    """Counts of diagnoses and of variables, and when they were measured."""
    severities = [diagnosis.severity for diagnosis in report.diagnoses]
    statuses = [variable.status for variable in report.variables]
    # Of a step that never called an optimizer nothing is known.
    is_blind = bool(statuses) and {*statuses} == {"unknown"}
    healthy = "no gradient was seen" if is_blind else "nothing broken"
    found = _counts(severities, SEVERITIES)
    if report.not_checked is not None:
        healthy = "not checked"
        found += ", the rest not checked" if found else ""
    parts = [found or healthy]
    states = _counts(statuses, STATUSES)
    number = f"{len(statuses)} trainable variables"
    if states or report.not_checked is None:
        parts.append(f"{number}: {states}" if states else number)
    if report.step is not None:
        parts.append(f"step {report.step}")
    if report.global_norm is not None:
        parts.append(f"global norm {message.figure(report.global_norm)}")
    return "; ".join(parts)


def _counts(words, order):
    """`2 missing, 4 ok`."""
    counts = {word: words.count(word) for word in order}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _table(variables):
    """One row for each variable, the broken ones first."""
    if not variables:
        return []

    def rank(row):
        return row.status == "ok", STATUSES.index(row.status)

    rows = [("variable", "shape", "dtype", "status", "norm", "step")]
    for row in sorted(variables, key=rank)[:MOST_ROWS]:
        norm = "-" if row.norm is None else message.figure(row.norm)
        step = "-" if row.step is None else str(row.step)
        shape = str(tuple(row.shape))
        rows.append((row.key, shape, row.dtype, row.status, norm, step))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(n) for cell, n in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    hidden = len(variables) - MOST_ROWS
    return lines + ([f"(+{hidden} more)"] if hidden > 0 else [])


def _wrap(label, text, width, hang=None):
    """Lines of at most `width` columns, the later ones hung in."""
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=label,
        subsequent_indent=" " * (len(label) if hang is None else hang),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [label.rstrip()]
