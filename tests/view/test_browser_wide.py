"""What the tab asks TensorBoard for, on small and on large screens."""

import pytest

from tests.view.conftest import once
from tests.view.tab import SMALL, set_screen
from tests.view.training import CUT_RUN, WELL_RUN, WELL_TOO_RUN

pytestmark = once

SCREENS = [SMALL, (1920, 1080), (2560, 1440)]
# Seconds after which a page that does not answer hangs.
HANGS = 20

# Keeps each request; `hold` holds back the answers until `release`.
LISTEN = """
window.asked = [];
window.open = 0;
window.gate = Promise.resolve();
window.hold = () => {
  window.gate = new Promise((resolve) => { window.release = resolve; });
};
const fetch = window.fetch;
window.fetch = async (address) => {
  window.asked.push(String(address));
  window.open += 1;
  try {
    const [answer] = await Promise.all([fetch(address), window.gate]);
    return answer;
  } finally {
    window.open -= 1;
  }
};
"""

# Calls back with all requests, once there are so many and the page is at rest.
AT_REST = """
const [least, done] = arguments;
let quiet = 0;
const look = () => {
  quiet = window.open || window.asked.length < least ? 0 : quiet + 1;
  if (quiet > 5) done(window.asked.splice(0));
  else requestAnimationFrame(look);
};
look();
"""


NUM_NORMS = """
return performance.getEntriesByType("resource")
  .filter(({name}) => name.includes("/norms?")).length;
"""

# Presses reload so often where there is no run; how many looks wait then.
RELOADS = """
const [number, done] = arguments;
const [set, clear] = [window.setTimeout, window.clearTimeout];
const waiting = new Set();
window.setTimeout = (act, pause) => {
  const id = set(() => { waiting.delete(id); act(); }, pause);
  waiting.add(id);
  return id;
};
window.clearTimeout = (id) => {
  waiting.delete(id);
  clear(id);
};
const reload = window.parent.document.querySelector(".reload-button");
let answers = 0;
window.fetch = async () => {
  answers += 1;
  // By then the page has taken the answer in.
  set(() => answers < number ? reload.click() : done(waiting.size), 200);
  return new Response('{"runs": []}');
};
reload.click();
"""


@pytest.fixture(params=SCREENS, ids=[str(width) for width, _ in SCREENS])
def screen(request, driver):
    """Each screen in turn, in one browser."""
    set_screen(driver, *request.param)
    driver.set_script_timeout(HANGS)
    yield request.param
    set_screen(driver, *SMALL)


def requests(tab, least=0):
    """Returns how often each route was asked since the last look."""
    asked = tab.driver.execute_async_script(AT_REST, least)
    routes = [address.split("?")[0].removeprefix("./") for address in asked]
    return {route: routes.count(route) for route in sorted(set(routes))}


def columns(tab):
    """Returns how many columns were asked for last, and the cells' pixels."""
    return tab.run(
        """
        const asked = performance.getEntriesByType("resource")
          .map(({name}) => new URL(name))
          .filter(({pathname}) => pathname.endsWith("/norms"));
        return [
          Number(asked.at(-1).searchParams.get("columns")),
          document.querySelector("canvas.map").clientWidth];
        """
    )


def zoom(tab):
    tab.one("[aria-label='Zoom in']").click()


def reload(tab):
    tab.run("window.parent.document.querySelector('.reload-button').click()")


def pin(tab):
    tab.run("document.querySelector('.scroller').scrollTop = 0")
    assert {} == requests(tab)  # the labels are drawn anew by then
    tab.all(".row:not([aria-expanded])")[0].click()


def tick(tab, run):
    tab.one(f"fieldset.runs input[value='{run}']").click()


@pytest.mark.parametrize(
    ("run", "other"),
    [(WELL_RUN, WELL_TOO_RUN), (CUT_RUN, WELL_RUN)],
    ids=["no_side_panel", "side_panel"],
)
def test_each_action_asks_once(screen, run, other, tab):
    """However wide the window is, and whether cards stand beside the runs."""
    tab.open(runs=[run], rows="variables")
    is_hidden = tab.run("return document.querySelector('.details').hidden")
    assert (run == WELL_RUN) == is_hidden
    tab.run(LISTEN)
    assert {} == requests(tab)
    assert 1 == tab.run(NUM_NORMS)
    one = {"details": 1, "norms": 1}
    zoom(tab)
    assert one == requests(tab, 2)
    reload(tab)
    assert {**one, "runs": 1} == requests(tab, 3)
    pin(tab)
    assert {} == requests(tab)
    assert tab.one(".curve")
    tick(tab, other)
    assert {"details": 2, "norms": 2} == requests(tab, 4)
    assert 2 == len(tab.all("canvas.map"))
    asked, width = columns(tab)
    assert width / 1.2 <= asked <= width * 1.2


@pytest.mark.parametrize("screen", [SMALL], indirect=True, ids=["1280"])
def test_window_that_grows_while_asking(screen, tab):
    """What is under way is not asked again; once it is there, it is."""
    tab.open(runs=[WELL_RUN])
    tab.run(LISTEN)
    tab.run("window.hold()")
    zoom(tab)
    tab.until("return window.asked.length === 2")
    for wide in SCREENS[1:]:
        set_screen(tab.driver, *wide)
        tab.until("return window.parent.innerWidth === arguments[0]", wide[0])
    tab.driver.execute_async_script(
        "const done = arguments[0];"
        "requestAnimationFrame(() => requestAnimationFrame(done))"
    )
    assert 2 == tab.run("return window.asked.length")
    tab.run("window.release()")
    assert {"details": 2, "norms": 2} == requests(tab, 4)
    asked, width = columns(tab)
    assert asked == width > 1800


@pytest.mark.parametrize("screen", [SMALL], indirect=True, ids=["1280"])
def test_one_look_waits_where_there_is_no_run(screen, tab):
    """TensorBoard's own reload comes beside the page's, again and again."""
    tab.open(runs=[WELL_RUN])
    assert 1 == tab.driver.execute_async_script(RELOADS, 3)
