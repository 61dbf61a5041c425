"""The results as one picture, for `docs/costs.md`."""

import pathlib

from benchmarks.compared.contenders import EVERY_STEP, GUARDED

IMAGE = pathlib.Path(__file__).parents[1] / "docs" / "images" / "cost.png"
GROWTH = ("variables", "parameters", "operations")
HIDDEN = ("bare", "bare, apart")
MARKS = {GUARDED: "o", EVERY_STEP: "D"}
COLOURS = {"bare again": "#999999", GUARDED: "#0072b2", EVERY_STEP: "#56b4e9"}
OTHERS = ("#d55e00", "#e69f00", "#cc79a7", "#009e73")


def draw(results, path=IMAGE):
    """Draws step costs, and how they grow.

    Args:
        results: The `Results`.
        path: The PNG file.

    Raises:
        ModuleNotFoundError: Without matplotlib.
    """
    from matplotlib.figure import Figure

    grown = {f.row for f in results.figures if f.points}
    rows = [row for row in GROWTH if row in grown]
    width = 11 if rows else 7
    picture = Figure(figsize=(width, 6.5), layout="constrained", dpi=110)
    if rows:
        left, right = picture.subfigures(1, 2, width_ratios=(3, 2))
        panels = right.subplots(len(rows), squeeze=False)[:, 0]
        for panel, row in zip(panels, rows, strict=True):
            _draw_growth(panel, row, results)
    else:
        left = picture.subfigures()
    _draw_steps(left.subplots(), results)
    versions = results.versions
    picture.supxlabel(
        f"{results.device}; TensorFlow {versions['tensorflow']}, "
        f"Keras {versions['keras']}; {results.date[:10]}",
        fontsize="small",
    )
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)


def _draw_steps(panel, results):
    from matplotlib.ticker import LogLocator

    steps = [f for f in results.figures if f.step_ms is not None]
    bare = {f.row: f.step_ms for f in steps if f.what == "bare"}
    rows = list(bare)
    names = [f.what for f in steps if f.what not in HIDDEN]
    names = list(dict.fromkeys(names))
    colours = iter(OTHERS)
    for number, name in enumerate(names):
        own = [f for f in steps if f.what == name]
        shift = 0.7 * ((number + 0.5) / len(names) - 0.5)
        panel.errorbar(
            [f.value for f in own],
            [rows.index(f.row) + shift for f in own],
            xerr=[
                [f.value - f.low for f in own],
                [f.high - f.value for f in own],
            ],
            fmt=MARKS.get(name, "x"),
            color=COLOURS.get(name) or next(colours),
            label=name,
            markersize=5,
            linewidth=1,
        )
    for figure in steps:
        if figure.bar.startswith("at most"):
            limit = float(figure.bar.split()[-1])
            style = "-" if figure.what == GUARDED else ":"
            height = rows.index(figure.row)
            panel.vlines(
                limit, height - 0.4, height + 0.4, "black", style, linewidth=1
            )
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")
    panel.set_yticks(
        range(len(rows)), [f"{row}\n{bare[row]:.3g} ms" for row in rows]
    )
    panel.invert_yaxis()
    panel.set_xlabel("time of a step / that of bare fit (log)")
    panel.set_title("a step; black ticks: the bars, dotted for every=1")
    panel.figure.legend(
        *panel.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize="x-small",
    )


def _draw_growth(panel, row, results):
    for figure in results.figures:
        if figure.row != row or not figure.points:
            continue
        points = [point for point in figure.points if point[1] > 0]
        style = "k--" if figure.what == "physical limit" else "o-"
        if points:
            numbers, costs = zip(*points, strict=True)
            panel.loglog(numbers, costs, style, ms=4, label=figure.what)
    panel.set_xlabel(row)
    panel.set_ylabel("ms")
    panel.set_visible(panel.has_data())
    if panel.has_data():
        panel.legend(fontsize="x-small")
