"""All figures of a run and where they come from, as JSON."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform

from benchmarks.figure import Figure

PACKAGES = ("keras_gradguard", "keras", "tensorboard", "numpy")
CPU_INFO = pathlib.Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Results:
    """A run of the benchmarks.

    Attributes:
        date: When it ended.
        device: What it ran on.
        versions: Version of each package by name.
        options: Its `Options`, as a dict.
        seconds: How long each row took.
        figures: The `Figure`s.
    """

    date: str
    device: str
    versions: dict
    options: dict
    seconds: dict
    figures: tuple

    def write(self, path):
        """Writes the results.

        Args:
            path: The JSON file.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1)
        pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


def results_of(figures, seconds, options):
    """Returns results as of here and now.

    Args:
        figures: The `Figure`s.
        seconds: How long each row took.
        options: The `Options`.
    """
    return Results(
        date=datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        device=_device(),
        versions=_versions(),
        options=dataclasses.asdict(options),
        seconds={name: round(took, 1) for name, took in seconds.items()},
        figures=tuple(figures),
    )


def read(path):
    """Reads what `Results.write` has written.

    Args:
        path: The JSON file.
    """
    known = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    figures = tuple(Figure(**figure) for figure in known.pop("figures"))
    return Results(**known, figures=figures)


def _device():
    import tensorflow as tf

    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = [x.split(":")[1].strip() for x in lines if "model name" in x]
    cpu = names[0] if names else platform.processor() or platform.machine()
    devices = [f"{os.cpu_count()} x {cpu}"]
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        devices.append(details.get("device_name", device.name))
    return ", ".join(devices)


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # The files of a checkout, or of another commit.
        return "not installed"


def _versions():
    import tensorflow as tf

    versions = {name: _version(name) for name in PACKAGES}
    python = platform.python_version()
    return {"python": python, "tensorflow": tf.__version__, **versions}
