"""The results as one table."""

from rich.console import Console
from rich.table import Table

NARROWEST = 140
CAPTION = "x is a ratio to bare fit: median over rounds, and quartiles"
QUICK = "a quick run shows that it runs; the figures mean nothing"


def show(results, file=None):
    """Prints the table.

    Args:
        results: The `Results`.
        file: Where to; by default the standard output.
    """
    console = Console(file=file)
    if console.width < NARROWEST:
        console = Console(file=file, width=NARROWEST)
    console.print(table_of(results))
    bars = [figure.met for figure in results.figures if figure.met is not None]
    minutes = sum(results.seconds.values()) / 60
    console.print(
        f"{sum(bars)} of {len(bars)} bars met; {minutes:.1f} minutes",
        highlight=False,
    )


def table_of(results):
    """Returns the table, of a line for each figure.

    Args:
        results: The `Results`.
    """
    versions = [f"{name} {v}" for name, v in results.versions.items()]
    table = Table(
        title="\n".join([results.device, ", ".join(versions), results.date]),
        caption=QUICK if results.options["quick"] else CAPTION,
    )
    for name in ("row", "what", "step ms", "figure", "spread", "bar", "met"):
        is_number = name in ("step ms", "figure", "spread")
        table.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    table.add_column("note", overflow="fold")
    row = None
    for figure in results.figures:
        if row not in (None, figure.row):
            table.add_section()
        table.add_row("" if row == figure.row else figure.row, *_cells(figure))
        row = figure.row
    return table


def _cells(figure):
    step = "" if figure.step_ms is None else f"{figure.step_ms:.3g}"
    is_ratio = figure.unit == "x"
    value = "-"
    if figure.value is not None:
        value = f"{_number(figure.value, is_ratio)} {figure.unit}"
    spread = ""
    if figure.low is not None:
        ends = (_number(end, is_ratio) for end in (figure.low, figure.high))
        spread = " - ".join(ends)
    met = {True: "yes", False: "NO", None: ""}[figure.met]
    return figure.what, step, value, spread, figure.bar, met, figure.note


def _number(value, is_ratio):
    return f"{value:.3f}" if is_ratio else f"{value:,.4g}"
