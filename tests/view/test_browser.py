"""What the tab shows and does, in a real browser on real runs."""

import pytest

from tests.view.board import wait
from tests.view.conftest import INFINITE, once
from tests.view.training import BAD_RUN, CUT_RUN, NAN_STEP, NUM_STEPS

MISSING, ZERO, NAN = [200, 16, 46], [0, 0, 0], [255, 64, 208]
INF, LOWEST = [255, 127, 0], [68, 1, 84]
# Rows of `BAD` with all layers unfolded.
ROWS = ["cut", "kernel", "bias", "live", "kernel", "bias"]
ROWS += ["dead", "kernel", "bias"]


@pytest.fixture
def cut(tab):
    """The tab with the transformer whose head is cut."""
    tab.open(runs=[CUT_RUN])
    return tab


@pytest.fixture
def bad(tab):
    """The tab with the run of all kinds of cells."""
    tab.open(runs=[BAD_RUN])
    return tab


def test_empty(board):
    """Before there is a run, the tab says which lines to add."""
    for line in (
        "from keras_gradguard import GradHealthCallback",
        'model.fit(x, y, callbacks=[GradHealthCallback(log_dir="logs")])',
    ):
        assert line in board.empty.splitlines()


def test_all_runs(tab):
    """Names are text, a run that cannot be read hides no other."""
    tab.open()
    tab.until("return document.querySelectorAll('canvas.map').length === 3")
    names = [element.text for element in tab.all("section.run .run-name")]
    assert ["bad", BAD_RUN, CUT_RUN, f"{INFINITE}/gradients"] == names
    assert "later version" in tab.text(".run .alert")
    told = [element.text for element in tab.all("fieldset.runs .badge")]
    assert ["cannot be read", "3 diagnoses", "1 diagnosis"] == told
    tab.all("fieldset.runs input")[0].click()
    assert not tab.all(".run .alert")


def test_colours(bad):
    """Missing, zero, NaN and a norm have colours of their own, and signs."""
    assert ROWS == bad.labels()
    columns = range(bad.num_columns())
    for row in (0, 1, 2):
        assert all(bad.pixel(row, column) == MISSING for column in columns)
    assert all(bad.pixel(8, column) == ZERO for column in range(NAN_STEP))
    for row in (3, 4, 5, 6, 7, 8):
        assert all(
            bad.pixel(row, column) == NAN
            for column in range(NAN_STEP, bad.num_columns())
        )
    red, green, blue = bad.pixel(4, 0)
    assert green > 150 and green > red and green > blue
    badges = [element.text for element in bad.all(".row .badge:not(.code)")]
    assert ["missing"] * 3 + ["NaN"] * 6 == badges
    legend = bad.text(".legend")
    for name in ("missing", "zero", "NaN", "Inf", "not measured"):
        assert name in legend


@once
def test_infinite(tab):
    """A layer is its worst variable; the scale has an end."""
    tab.open(runs=[f"{INFINITE}/gradients"], rows="layers")
    assert [INF, MISSING] == [tab.pixel(0, 0), tab.pixel(1, 0)]
    badges = [element.text for element in tab.all(".row .badge")]
    assert ["Inf", "missing"] == badges
    tab.all(".row")[1].click()
    assert [MISSING, LOWEST] == [tab.pixel(1, 0), tab.pixel(2, 0)]
    tab.point(0, 0)
    assert "gradient norm: Inf" in tab.text(".tip")


def test_every_record_is_a_column(cut):
    """TensorBoard keeps 100, or 10, of the records of other plugins."""
    assert NUM_STEPS == cut.num_columns()
    assert "65 variables, 120 records" in cut.text(".run h2")


def test_hover(bad):
    """The box beside the pointer says what a cell is."""
    bad.point(4, 0)
    path, step, norm, update = bad.text(".tip").splitlines()
    assert ("live/kernel", "step 0") == (path, step)
    assert 0 < float(norm.removeprefix("gradient norm: ")) < 100
    assert 0 < float(update.removeprefix("update / weight: ")) < 100
    bad.point(1, 3)
    assert "gradient norm: missing" in bad.text(".tip")
    bad.point(6, 2)
    assert "gradient norm: 0 (exactly zero)" in bad.text(".tip")
    assert "the worst of 2 variables" in bad.text(".tip")


@once
def test_folding(cut):
    """A row of a layer is the worst of its variables, and unfolds."""
    closed = cut.labels()
    assert "embedding/embeddings" == closed[0]
    place = closed.index("size")
    assert MISSING == cut.pixel(place, 0)
    size = cut.all(".row")[place]
    assert "false" == size.get_attribute("aria-expanded")
    size.click()
    opened = cut.labels()
    assert [*closed[: place + 1], "kernel", "bias"] == opened[: place + 3]
    assert "gg_toggled" in cut.address()


def test_card(cut):
    """A card says all that the console says, text as text."""
    card = cut.text(".card")
    assert "warning[GG105] rounding: `Round` is piecewise constant" in card
    assert "step 0, epoch 0" in card
    assert "training.py:" in card and "in steps" in card
    assert "# <i>" in cut.text(".card .guilty")
    assert cut.text(".card .guilty").startswith(">")
    for text in (
        "<- Round <-X- (variables)",
        "of 65 trainable variables",
        "why",
        "op=Round",
        "loss=",
        "help:",
        "+     return tf.square(y_true - y_pred)",
        "python -m keras_gradguard explain GG105",
    ):
        assert text in card, text


@once
def test_card_and_rows(bad):
    """A card marks its rows, and a row opens its card."""
    heads = [element.text for element in bad.all(".headline")]
    codes = [head.partition("[")[2].partition("]")[0] for head in heads]
    assert ["GG221", "GG201", "GG106"] == codes
    assert ["true", "false", "false"] == [
        head.get_attribute("aria-expanded") for head in bad.all(".headline")
    ]
    bad.all(".headline")[2].click()
    (mark,) = bad.all(".marks div")
    top, height = bad.run(
        "return [arguments[0].offsetTop, arguments[0].offsetHeight]", mark
    )
    assert (0, 3 * 16) == (top, height)
    bad.all(".row")[7].click()  # dead/kernel
    opened = bad.one(".headline[aria-expanded=true]")
    assert "GG221" in opened.text
    assert opened == bad.driver.switch_to.active_element
    assert "dead/kernel" in bad.text(".curve figcaption")
    bad.all(".headline")[0].click()
    assert not bad.all(".headline[aria-expanded=true]")


@once
def test_curve(bad):
    """A pinned variable has a curve, and says where it is no number."""
    bad.point(5, 1, lambda actions: actions.click())
    label = bad.one(".curve > svg").get_attribute("aria-label")
    assert f"NaN in 6 of {bad.num_columns()} columns" in label
    assert 1 == len(bad.all(".curve .band-nan"))
    assert bad.one(".curve > svg path.line").get_attribute("d")
    bad.one(".curve button").click()
    assert not bad.all(".curve")


def test_zoom(cut):
    """Dragged, by numbers and by buttons; and back."""
    cut.point(3, 20, lambda actions: actions.click_and_hold())
    cut.point(3, 39, lambda actions: actions.release())
    width = "return document.querySelector('canvas.map').width"
    cut.until(f"{width} === 20")
    first, last = (
        element.get_attribute("value") for element in cut.all(".zoom input")
    )
    assert ("20", "39") == (first, last)
    cut.one("[aria-label='Zoom in']").click()
    cut.until(f"{width} < 15")
    cut.one(".zoom button:last-child").click()
    cut.until(f"{width} === {NUM_STEPS}")


def test_losses(cut):
    """Which loss reaches which variable."""
    rows = {
        element.text.splitlines()[0].split(" ")[0]: element.text
        for element in cut.all(".matrix tbody tr")
    }
    assert rows["size"].endswith("not reached not reached")
    assert rows["label"].endswith("not reached")
    assert "not reached not reached" not in rows["label"]


def test_incident(bad):
    """The step that was kept, its samples, and a command to copy."""
    text = bad.text(".incident")
    assert f"step {NAN_STEP}, epoch 0" in text
    assert "0 of a batch of 2, counted from 0" in text
    command = bad.text(".incident .command")
    assert command.startswith("python -m keras_gradguard replay ")
    told = "return document.querySelector('.incident [role=status]')"
    bad.run("navigator.clipboard.writeText = () => Promise.reject()")
    bad.one(".incident button").click()
    assert bad.until(f"{told}.textContent").startswith("selected")
    assert command == bad.run("return getSelection().toString()")
    bad.run("navigator.clipboard.writeText = async (text) => window.got = text")
    bad.one(".incident button").click()
    bad.until(f"{told}.textContent === 'copied'")
    assert command == bad.run("return window.got")


def test_address(tab):
    """The whole view is in the address; TensorBoard leaves it there."""
    state = {"runs": [BAD_RUN], "rows": "layers", "toggled": ["live"]}
    tab.open(**state, pins=["live/bias"], filter="/live|dead/")
    wait(lambda: ["live", "kernel", "bias", "dead"] == tab.labels())
    assert "live/bias" in tab.text(".curve figcaption")
    address = tab.address()
    tab.driver.refresh()
    tab.enter()
    tab.one("canvas.map[data-columns]")
    wait(lambda: ["live", "kernel", "bias", "dead"] == tab.labels())
    assert address == tab.address()
