"""The wheel in an environment of its own, without TensorFlow and Keras."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv

import pytest

from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import write_norms

ROOT = pathlib.Path(__file__).parents[2]
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 120


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The folder of the programs of an environment with our wheel in it."""
    folder = tmp_path_factory.mktemp("wheel")
    # What an earlier build has left beside the source must not get in.
    source = folder / "source"
    left = shutil.ignore_patterns("__pycache__")
    package = "keras_gradguard"
    shutil.copytree(ROOT / package, source / package, ignore=left)
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = (str(programs / "pip"), "install", "-q")
    run(*install, "--no-deps", str(wheel))
    run(*install, "tensorboard>=2.21")
    return programs


@contextlib.contextmanager
def started(programs, log_dir):
    """Runs `tensorboard` on a free port; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (str(programs / "tensorboard"), "--logdir", str(log_dir))
    process = subprocess.Popen(
        (*command, "--port", str(port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        said = process.communicate()[1]
        print(said)


def fetched(address):
    """Returns what an address answers, as soon as it does."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_tab_of_the_wheel(environment, tmp_path):
    writer = SummaryWriter(tmp_path)
    write_norms(writer, 3, 1.0, {"a/k": 1.0})
    writer.close()
    with started(environment, tmp_path) as address:
        plugin = f"{address}/data/plugin/keras_gradguard"
        page = fetched(f"{plugin}/index.js")
        assert "export" in page
        runs, end = [], time.monotonic() + SECONDS
        while not runs and time.monotonic() < end:
            runs = json.loads(fetched(f"{plugin}/runs"))["runs"]
        assert ["gradients"] == [known["run"] for known in runs]
        listing = json.loads(fetched(f"{address}/data/plugins_listing"))
        assert "Gradients" == listing["keras_gradguard"]["tab_name"]


def test_every_file_of_the_page_is_in_the_wheel(environment):
    """What is served from the source is what is served when installed."""
    code = (
        "from keras_gradguard.view.plugin import asset_names, read_asset\n"
        "print(*asset_names())\n"
        "print(all(map(read_asset, asset_names())))"
    )
    python = environment / "python"
    names, is_readable = run(str(python), "-c", code).splitlines()
    folder = ROOT / "keras_gradguard" / "view" / "static"
    assert sorted(path.name for path in folder.iterdir()) == names.split()
    assert is_readable == "True"


def test_named_without_tensorflow(environment):
    """The command line works where the logs are looked at."""
    python = str(environment / "python")
    text = run(python, "-m", "keras_gradguard", "explain", "GG104")
    assert "argmax" in text
