"""One browser for all tests, one TensorBoard for each way to load."""

import math
import shutil
import subprocess
import tarfile

import pytest

from tests.view.board import Board
from tests.view.tab import Tab, browser, needed


@pytest.fixture(scope="session")
def driver():
    """The browser."""
    found = browser()
    yield found
    found.quit()


@pytest.fixture(scope="session")
def trained(driver, tmp_path_factory):
    """A folder of real runs, and of one that cannot be read."""
    from keras_gradguard.report.writer import SummaryWriter
    from tests.report.records import write_norms
    from tests.view.test_broken_runs import write
    from tests.view.training import train_all

    folder = tmp_path_factory.mktemp("trained")
    train_all(folder)
    write(folder, 2, **{"gradguard/diagnoses/x": "{}"})
    writer = SummaryWriter(folder / INFINITE)
    norms = {"a/k": math.inf, "a/b": None, "b/k": 1e-30, "b/b": None}
    write_norms(writer, 0, math.inf, norms)
    writer.close()
    return folder


@pytest.fixture(
    scope="session", params=[True, False], ids=["load_fast", "load_slow"]
)
def board(request, driver, trained, tmp_path_factory):
    """TensorBoard over the runs; `empty` is what it said before them."""
    folder = tmp_path_factory.mktemp("board")
    prefix = "" if request.param else "/some/where"
    made = Board(folder, request.param, prefix)
    try:
        made.until(lambda runs: not runs)
        tab = Tab(driver, made)
        tab.open(ready=".empty")
        made.empty = tab.text(".empty")
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        made.until(lambda runs: len(runs) == 6)
        yield made
    finally:
        made.close()


INFINITE = "infinite"
# For what only the page does, whoever has read the records.
once = pytest.mark.parametrize(
    "board", [True], ids=["load_fast"], indirect=True
)


@pytest.fixture
def tab(driver, board):
    """The tab; at the end of a test the browser must not have complained."""
    made = Tab(driver, board)
    yield made
    assert [] == made.complaints()


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core."""
    npm = shutil.which("npm")
    if npm is None:
        needed("npm")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        [npm, "pack", "axe-core"], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        needed("axe-core, which npm could not fetch,")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        source = archive.extractfile("package/axe.min.js")
        return source.read().decode()
