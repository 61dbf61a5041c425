"""New records while the tab is open, and TensorBoard's theme."""

import warnings

from keras_gradguard import GradHealthCallback
from tests.view.conftest import once
from tests.view.training import BAD_RUN, branches, fit, numbers


def theme(tab):
    return tab.run("return document.documentElement.dataset.theme")


def test_live(tab):
    """The reload button brings new columns and leaves the rest as it is."""
    folder = tab.board.folder / "live"
    run = "live/gradients"
    model = branches()
    callback = GradHealthCallback(log_dir=folder, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit(model, *numbers(5), folder, callback)
        tab.board.until(
            lambda runs: any(
                (known["run"], known.get("last_step")) == (run, 4)
                for known in runs
            )
        )
        tab.open(runs=[run], pins=["live/bias"])
        assert 5 == tab.num_columns()
        tab.one("#filter").send_keys("/live|dead/")
        tab.run(
            """
            const details = document.querySelector(".details");
            details.style.paddingBottom = "900px"; // whatever its cards are
            details.scrollTop = 20;
            """
        )
        fit(model, *numbers(5), folder, callback)
    tab.board.until(
        lambda runs: any(
            known["run"] == run and known["last_step"] == 9 for known in runs
        )
    )
    tab.driver.switch_to.default_content()
    tab.one(".reload-button").click()
    tab.enter()
    tab.until("return document.querySelector('canvas.map').width === 10")
    assert ["live", "kernel", "bias", "dead", "kernel", "bias"] == tab.labels()
    assert "live/bias" in tab.text(".curve figcaption")
    assert "/live|dead/" == tab.one("#filter").get_attribute("value")
    assert 20 == tab.run("return document.querySelector('.details').scrollTop")


@once
def test_focus_outlives_reload(tab):
    """Who reads on with the keyboard is not thrown back."""
    tab.open(runs=[BAD_RUN])
    tab.run("document.querySelectorAll('.headline')[1].focus()")
    tab.run(
        """
        window.drawn = performance.getEntriesByName("gradguard-drawn").length;
        window.parent.document.querySelector(".reload-button").click();
        """
    )
    tab.until(
        """
        return performance.getEntriesByName("gradguard-drawn").length
          > window.drawn;
        """
    )
    assert "GG201" in tab.run("return document.activeElement.textContent")


@once
def test_no_answer(tab):
    """What cannot be read is reported; what is known stays."""
    tab.open(runs=[BAD_RUN])
    tab.run(
        """
        window.fetch = () => Promise.reject(new TypeError("gone"));
        window.parent.document.querySelector(".reload-button").click();
        """
    )
    told = tab.one("main > div > .alert")
    assert "TensorBoard does not respond (gone)" == told.text
    assert "alert" == told.get_attribute("role")
    assert tab.num_columns() > 1


@once
def test_theme(tab):
    """Light or dark as TensorBoard is, at once."""
    tab.open()
    assert "light" == theme(tab)
    tab.open("?darkMode=true")
    assert "dark" == theme(tab)
    back = "return getComputedStyle(document.body).backgroundColor"
    assert "rgb(48, 48, 48)" == tab.run(back)
    tab.run("window.parent.document.body.classList.remove('dark-mode')")
    assert "light" == tab.until("return document.documentElement.dataset.theme")
    tab.until(f"{back} === 'rgb(255, 255, 255)'")


@once
def test_address_that_somebody_typed(tab):
    """What does not fit is left out; the rest of it counts."""
    tab.open(
        runs="x",
        filter=5,
        rows="none",
        toggled={"a": 1},
        height=[],
        shape=None,
        first="a",
        last=-3,
        pins=[1, None],
        card=7,
        values="updates",
    )
    assert tab.all(".runs input:checked")
    assert "Update" in tab.text(".legend")
    assert not tab.complaints()
