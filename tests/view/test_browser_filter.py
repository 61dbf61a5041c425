"""Which rows the filter shows: words, or an expression in its bounds."""

import urllib.request

import pytest

from tests.view.board import wait
from tests.view.conftest import once
from tests.view.training import CUT_RUN, WELL_RUN

pytestmark = once

# Of a path of twenty letters it tries a million ways, and there are many.
ENDLESS = r"(([a-z_]+)+/?)+\d{9}$"
# Seconds after which a page that does not answer hangs.
HANGS = 20
# Every worker that the page starts from now on, and whether it was ended.
WORKERS = """
window.workers = [];
window.Worker = class extends window.Worker {
  constructor(...known) {
    super(...known);
    this.isEnded = false;
    window.workers.push(this);
  }
  terminate() {
    super.terminate();
    this.isEnded = true;
  }
};
"""
# Calls back with the number of frames until something is said of the filter.
FRAMES = """
const [done] = arguments;
let number = 0;
const look = () => {
  number += 1;
  if (!document.querySelector("#filter-fault").hidden) done(number);
  else requestAnimationFrame(look);
};
look();
"""


@pytest.fixture
def cut(tab):
    """The tab with a run of many variables, each a row."""
    tab.driver.set_script_timeout(HANGS)
    tab.open(runs=[CUT_RUN], rows="variables")
    return tab


def type_in(tab, text):
    """Puts a text into the field at once, as from the clipboard."""
    tab.run(
        """
        const field = document.querySelector("#filter");
        field.value = arguments[0];
        field.dispatchEvent(new Event("input"));
        """,
        text,
    )


def fault(tab):
    """Returns what is said of the filter, `""` if nothing is."""
    return tab.run(
        """
        const fault = document.querySelector("#filter-fault");
        return fault.hidden ? "" : fault.textContent;
        """
    )


def paths(tab):
    """Returns the paths of all variables that are shown, in model order."""
    return tab.run(
        """
        let layer = "";
        return [...document.querySelectorAll(".row")].flatMap((row) => {
          const name = row.querySelector(".name").textContent;
          if (row.ariaExpanded !== null) layer = name + "/";
          else return row.ariaLevel === "1" ? name : layer + name;
          return [];
        });
        """
    )


def num_rows(tab):
    """Returns the number of rows, in view or not."""
    return int(tab.one("canvas.map").get_attribute("data-rows"))


ROWS = {
    "size": ["size/kernel", "size/bias"],
    "KERNEL Label": ["label/kernel"],
    "  el/ker  ": ["label/kernel"],
    "attention3 query bias": ["attention3/query/bias"],
    "/ker size": ["size/kernel"],
    # What an expression would make of it is nothing to a word.
    "size|label": [],
    "s.ze": [],
    "^size": [],
    "(": [],
    "no such variable": [],
    "/^(label|size)/K/": ["label/kernel", "size/kernel"],
    "/^s[hi]ze.b/": ["size/bias"],
    "/no such variable/": [],
}


def test_rows(cut):
    """Words are found wherever they stand in a path."""
    for text, found in ROWS.items():
        type_in(cut, text)
        wait(lambda found=found: found == paths(cut))
        assert "" == fault(cut)
        if not found:
            note = cut.text(".run .body")
            assert "No variable path matches the filter" in note
            assert "/kernel|bias/" in note


def test_expression_that_is_none(cut):
    """One sentence with the reason; all rows stay."""
    number = num_rows(cut)
    type_in(cut, "/(/")
    wait(lambda: fault(cut))
    assert fault(cut) == (
        "This is not a valid regular expression (Unterminated group); all rows "
        "are shown."
    )
    assert "true" == cut.one("#filter").get_attribute("aria-invalid")
    assert number == num_rows(cut)
    type_in(cut, "size")
    assert "" == fault(cut)
    assert "false" == cut.one("#filter").get_attribute("aria-invalid")


def test_expression_without_an_end(cut):
    """The page answers on, says so, and the worker does not run on."""
    number = num_rows(cut)
    cut.run(WORKERS)
    type_in(cut, f"/{ENDLESS}/")
    assert 2 < cut.driver.execute_async_script(FRAMES)
    assert "This expression takes too long; all rows are shown." == fault(cut)
    assert number == num_rows(cut)
    assert cut.run("return window.workers.every(({isEnded}) => isEnded)")
    # It is not tried once more with every drawing.
    started = cut.run("return window.workers.length")
    cut.one("#height").send_keys("all in view")
    assert started == cut.run("return window.workers.length")
    type_in(cut, "/^size/")
    wait(lambda: ["size/kernel", "size/bias"] == paths(cut))
    assert "" == fault(cut)
    assert started + 1 == cut.run("return window.workers.length")


def test_link_without_an_end(tab):
    """A link that was passed on opens, as of now and as of old."""
    tab.driver.set_script_timeout(HANGS)
    tab.open(runs=[CUT_RUN], filter=f"/{ENDLESS}/")
    wait(lambda: fault(tab))
    assert "takes too long" in fault(tab)
    assert 30 < num_rows(tab)
    tab.open(runs=[CUT_RUN], filter=ENDLESS, ready=".run .body .note")
    assert "No variable path matches" in tab.text(".run .body")
    assert ENDLESS == tab.one("#filter").get_attribute("value")


def test_run_that_comes_later(cut):
    """An expression is tried on the variables of further runs too."""
    type_in(cut, "/^(size|second)/b/")
    wait(lambda: ["size/bias"] == paths(cut))
    cut.one(f"fieldset.runs input[value='{WELL_RUN}']").click()
    wait(lambda: ["size/bias", "second/bias"] == paths(cut))


def test_no_worker(cut):
    """Where a page may start none, words still filter."""
    cut.run(
        "window.Worker = class { constructor() { throw new Error('no'); } }"
    )
    type_in(cut, "/size/")
    wait(lambda: fault(cut))
    assert "cannot start a web worker" in fault(cut)
    type_in(cut, "size bias")
    assert ["size/bias"] == paths(cut)
    assert "" == fault(cut)


def test_policy(board):
    """What TensorBoard lets a page load: scripts of its own, so workers too."""
    page = f"{board.url}data/plugin_entry.html?name=keras_gradguard"
    with urllib.request.urlopen(page) as answer:
        policy = answer.headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split(";"))
    names = ("worker-src", "child-src", "script-src", "default-src")
    assert "'self'" in next(rules[name] for name in names if name in rules)
