"""A TensorBoard of its own process."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]


class Board:
    """TensorBoard over a folder, until `close`.

    Args:
        folder: The folder.
        is_fast: Whether the fast server reads it.
        prefix: Path prefix, such as `"/some/where"`.
    """

    def __init__(self, folder, is_fast, prefix=""):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.folder = folder
        self.url = f"http://localhost:{port}{prefix}/"
        command = [sys.executable, "-m", "tensorboard.main"]
        command += ["--logdir", str(folder), "--port", str(port)]
        command += [f"--load_fast={str(is_fast).lower()}"]
        command += ["--path_prefix", prefix, "--reload_interval", "1"]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def runs(self):
        """Returns the runs that it has read, `None` before it answers."""
        route = "data/plugin/keras_gradguard/runs"
        try:
            with urllib.request.urlopen(self.url + route) as answer:
                return json.loads(answer.read())["runs"]
        except OSError:
            assert self._process.poll() is None, "TensorBoard has ended"
            return None

    def read(self, route, run):
        """Asks for one of our routes about a run, whatever it answers."""
        query = urllib.parse.urlencode({"run": run})
        route = f"data/plugin/keras_gradguard/{route}?{query}"
        try:
            with urllib.request.urlopen(self.url + route) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            return error.read()

    def most_bytes(self):
        """Returns how much memory its process has used at most."""
        path = pathlib.Path(f"/proc/{self._process.pid}/status")
        (line,) = [x for x in path.read_text().splitlines() if "VmHWM" in x]
        return int(line.split()[1]) * 1024

    def until(self, condition):
        """Waits until its runs are as wanted."""
        wait(lambda: (runs := self.runs()) is not None and condition(runs))

    def close(self):
        """Ends it and the data server that it has started."""
        self._process.terminate()
        self._process.wait(timeout=30)


def wait(condition, seconds=40):
    """Returns the first value of `condition` that is true.

    A page that is drawn anew while `condition` reads it is asked once more.
    """
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
        except StaleElementReferenceException:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
