"""The oldest versions are the same in setup.cfg, nox and `.ci/run`."""

import configparser
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
OLDEST = "-c .ci/oldest.txt"


def requirements():
    """The lower bounds of setup.cfg, by distribution."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    lines = [setup["options"]["install_requires"]]
    lines += [extras["tensorflow"], extras["tensorflow-cpu"]]
    return dict(re.findall(r"^([a-z-]+)>=([\d.]+)", "\n".join(lines), re.M))


def constraints():
    """The pins of `.ci/oldest.txt`, by distribution."""
    text = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z-]+)==([\d.]+)\.\*$", text, re.MULTILINE))


def test_oldest_versions_are_those_that_setup_allows():
    assert requirements() == constraints()
    assert {"keras", "tensorboard", "tensorflow"} <= set(constraints())


def test_nox_and_ci_install_the_same_oldest_versions():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    sessions = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert f'pip install {OLDEST} ".[test,tensorflow-cpu]"' in script
    assert 'install("-c", ".ci/oldest.txt", ".[test,tensor' in sessions


def test_smoke_tests_are_marked_and_run():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'pytest -m "smoke and not slow"' in script
    marked = [
        path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if "\npytestmark = pytest.mark.smoke\n" in path.read_text()
    ]
    assert {"test_callback.py", "test_loss.py"} <= set(marked)
