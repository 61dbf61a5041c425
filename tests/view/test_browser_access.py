"""The tab by keyboard, as a table, and for a screen reader."""

import pytest

from tests.view.conftest import once
from tests.view.tab import grave_faults
from tests.view.training import BAD_RUN, CUT_RUN

pytestmark = once

# The numbers that WebDriver gives to keys.
TAB, ENTER, SHIFT, RIGHT, DOWN = "\ue004\ue007\ue008\ue014\ue015"

FOCUSED = "return document.activeElement.{}"
CELL = """
const grid = document.activeElement;
const row = document.getElementById(
  grid.getAttribute("aria-activedescendant"));
return row.querySelector("[role=gridcell]").textContent;
"""


def go_to(tab, role):
    """Presses Tab until an element of a role has the focus."""
    for _ in range(40):
        tab.press(TAB)
        if role == tab.run(FOCUSED.format("getAttribute('role')")):
            return
    raise AssertionError(f"no way to {role} by keyboard")


def test_keyboard(tab):
    """Every action without a mouse, and what it says."""
    tab.open(runs=[BAD_RUN], rows="layers")
    tab.run("window.focus(); document.querySelector('#filter').focus()")
    go_to(tab, "treegrid")
    assert "missing" in tab.run(CELL)
    tab.press(DOWN)
    assert "norm " in tab.run(CELL) and "step 0" in tab.run(CELL)
    tab.press(RIGHT, held=SHIFT)
    assert "step 10: norm NaN" in tab.run(CELL)
    assert "norm: NaN" in tab.text(".tip")
    tab.press(ENTER)
    assert ["cut", "live", "kernel", "bias", "dead"] == tab.labels()
    tab.press(DOWN, ENTER)
    assert "live/kernel" in tab.text(".curve figcaption")
    head = tab.run(FOCUSED.format("textContent"))
    assert "GG221" in head
    tab.press(ENTER)
    assert not tab.all(".headline[aria-expanded=true]")
    assert head == tab.run(FOCUSED.format("textContent"))
    outline = "return getComputedStyle(document.activeElement).outlineWidth"
    assert "2px" == tab.run(outline)


def test_zoom_by_keyboard(tab):
    """Plus, minus and zero."""
    tab.open(runs=[CUT_RUN])
    width = "return document.querySelector('canvas.map').width"
    tab.run("document.querySelector('[role=treegrid]').focus()")
    tab.press("+")
    tab.until(f"{width} < 60")
    tab.press("0")
    tab.until(f"{width} === 120")


def test_table(tab):
    """The same numbers as text, a page at a time."""
    tab.open(runs=[CUT_RUN], shape="table", ready=".holder table")
    rows = {
        row.text.split()[0]: row.text.split()[1:]
        for row in tab.all(".holder tbody tr")
    }
    assert ["GG105", *["missing"] * 6] == rows["size"]
    assert all(0 < float(text) < 100 for text in rows["label"])
    head = tab.text(".holder thead")
    assert head.endswith("119")
    tab.all(".turns button")[0].click()
    assert tab.text(".holder thead").endswith("113")
    assert "columns 109 to 114 of 120" in tab.text(".turns .place")
    tab.all(".holder tbody button")[-1].click()
    names = [button.text for button in tab.all(".holder tbody button")]
    assert ["kernel", "bias"] == names[-2:]


@pytest.mark.parametrize("query", ["", "?darkMode=true"], ids=["light", "dark"])
@pytest.mark.parametrize("shape", ["heatmap", "table"])
def test_axe(shape, query, axe, tab):
    """No fault that a checker of accessibility calls serious."""
    state = {"rows": "variables", "pins": ["size/kernel", "live/bias"]}
    state["runs"] = [BAD_RUN, CUT_RUN]
    ready = "table caption" if shape == "table" else "canvas.map[data-columns]"
    tab.open(query, ready, shape=shape, filter="/(/", **state)
    tab.until("return document.querySelectorAll('.card').length === 4")
    tab.until("return !document.querySelector('#filter-fault').hidden")
    assert [] == grave_faults(tab, axe)
