"""Which loss reaches which variable, as a table of plain text."""

from keras_gradguard.report import message

MOST_LOSSES = 6


def render_matrix(report, most_rows):
    """Returns the lines of a table, one row for each trainable variable.

    Args:
        report: A `Report`.
        most_rows: Rows that are shown, those that no data reaches first.

    Returns:
        A list of lines, empty where the loss is not a sum.
    """
    losses = report.losses
    if len(losses) < 2:
        return []
    rows = sorted(
        range(len(report.variables)),
        key=lambda number: any(
            loss.reaches[number] and loss.kind != "regularizer"
            for loss in losses
        ),
    )
    shown = losses[:MOST_LOSSES]
    table = [("variable", *(_head(loss) for loss in shown))]
    for number in rows[:most_rows]:
        path = report.variables[number].path
        table.append((path, *(_cell(loss, number) for loss in shown)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_title(losses)]
    for row in table:
        cells = [cell.ljust(n) for cell, n in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    hidden = (
        (len(losses) - MOST_LOSSES, "losses"),
        (len(rows) - most_rows, "variables"),
    )
    return lines + [f"(+{n} more {what})" for n, what in hidden if n > 0]


def _title(losses):
    step = next((one.step for one in losses if one.norms is not None), None)
    is_measured = any(loss.norms is not None for loss in losses)
    what = "norm of each loss's gradient" if is_measured else "which reaches it"
    when = "" if step is None else f" at step {step}"
    return f"losses: {what}{when}; - where no gradient leads"


def _head(loss):
    is_clear = loss.kind == "loss" or loss.kind in loss.name
    return loss.name if is_clear else f"{loss.name} [{loss.kind}]"


def _cell(loss, number):
    if not loss.reaches[number]:
        return "-"
    return "yes" if loss.norms is None else message.figure(loss.norms[number])
