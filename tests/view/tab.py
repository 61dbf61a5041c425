"""The Gradients tab in a headless Chromium."""

import json
import os
import shutil
import urllib.parse

import pytest

from tests.view.board import wait

os.environ["SE_OFFLINE"] = "true"  # or selenium asks the network for drivers
REQUIRED = "KERAS_GRADGUARD_REQUIRE_BROWSER"
SMALL = (1280, 720)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def needed(what):
    """Skips the test, or lets it fail where it must run."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what} is missing, and {REQUIRED}=1", pytrace=False)
    pytest.skip(f"{what} is missing")


def browser():
    """Starts the browser; its size is that of a small screen."""
    try:
        from selenium import webdriver
    except ImportError:
        needed("selenium")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        needed("Chromium or its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    arguments = ["--headless=new", "--disable-gpu", "--hide-scrollbars"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    made = webdriver.Chrome(options=options, service=service)
    set_screen(made, *SMALL)
    return made


def set_screen(driver, width, height):
    """Makes the window of a browser that large, in pixels."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": False,
        },
    )


class Tab:
    """The tab of a TensorBoard.

    Args:
        driver: What `browser` returned.
        board: A `Board`.
    """

    def __init__(self, driver, board):
        self.driver = driver
        self.board = board

    def open(self, query="", ready="canvas.map[data-columns]", **state):
        """Opens the tab anew, `state` in its address, and waits for it."""
        address = [
            f"gg_{name}={urllib.parse.quote(json.dumps(value))}"
            for name, value in state.items()
        ]
        address = "&".join(["keras_gradguard", *address])
        self.driver.get("about:blank")
        self.driver.get(f"{self.board.url}{query}#{address}")
        self.enter()
        # Each run that is read draws what stands around all of them.
        wait(lambda: self.all(ready) and not self.all("[aria-busy]"))

    def enter(self):
        """Goes into TensorBoard's frame of our page."""
        self.driver.switch_to.default_content()
        frame = wait(lambda: self.all("iframe"))[0]
        self.driver.switch_to.frame(frame)

    def all(self, selector):
        """Returns all elements of a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        """Returns the only element of a selector, once it is there."""
        (found,) = wait(lambda: self.all(selector))
        return found

    def text(self, selector):
        """Returns the text of the only element of a selector."""
        return self.one(selector).text

    def run(self, script, *values):
        """Returns what a script returns."""
        return self.driver.execute_script(script, *values)

    def until(self, script, *values):
        """Waits until a script returns something true, and returns it."""
        return wait(lambda: self.run(script, *values))

    def address(self):
        """Returns the address of the whole page."""
        return urllib.parse.unquote(
            self.run("return window.parent.location.href")
        )

    def labels(self):
        """Returns the labels of the rows in view, top first."""
        # One script, since rows may be drawn anew between two questions.
        return self.run(
            """
            return [...document.querySelectorAll(".row .name")]
              .map(element => element.innerText);
            """
        )

    def pixel(self, row, column):
        """Returns red, green, blue of a cell of the first heatmap."""
        return self.run(
            """
            const context = document.querySelector("canvas.map")
              .getContext("2d");
            return [...context.getImageData(arguments[0], arguments[1], 1, 1)
              .data];
            """,
            column,
            row,
        )[:3]

    def num_columns(self):
        """Returns the number of columns of the first heatmap."""
        return self.run("return document.querySelector('canvas.map').width")

    def point(self, row, column, then=None):
        """Moves the pointer onto a cell; `then` acts with the actions."""
        from selenium.webdriver import ActionChains

        x, y = self.run(
            """
            const canvas = document.querySelector("canvas.map");
            const box = canvas.getBoundingClientRect();
            return [
              box.left + (arguments[1] + 0.5) * box.width / canvas.width,
              box.top + (arguments[0] + 0.5) * box.height / canvas.height];
            """,
            row,
            column,
        )
        frame = self.one("body")
        size = frame.rect
        actions = ActionChains(self.driver, duration=0)
        actions.move_to_element_with_offset(
            frame, int(x - size["width"] / 2), int(y - size["height"] / 2)
        )
        if then is not None:
            then(actions)
        actions.perform()

    def press(self, *keys, held=None):
        """Presses keys where the focus is, another one held down or none."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver, duration=0)
        if held is not None:
            actions.key_down(held)
        actions.send_keys(*keys)
        if held is not None:
            actions.key_up(held)
        actions.perform()

    def complaints(self):
        """Returns what the browser's console says in earnest."""
        # TensorBoard itself misses its fonts below a path prefix.
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
            and "/font-roboto/" not in entry["message"]
        ]


def grave_faults(tab, axe):
    """Returns what a checker of accessibility calls serious.

    Args:
        tab: A `Tab`.
        axe: The source of axe-core.
    """
    tab.run(axe)
    number, found = tab.driver.execute_async_script(
        """
        const done = arguments[0];
        axe.run(document).then(({passes, violations}) => done([
          passes.length, violations.map(({id, impact, nodes}) =>
            [impact, id, nodes[0].html])]));
        """
    )
    assert number > 20
    return [fault for fault in found if fault[0] in ("serious", "critical")]
