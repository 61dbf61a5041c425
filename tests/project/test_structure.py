"""The import table of `docs/architecture.md`, held as a test."""

import re

import pytest

from tests.project import structure

TENSORFLOW = "backend.tensorflow"
HOOK, CAPTURE = f"{TENSORFLOW}.hook", f"{TENSORFLOW}.capture"
TRACING, INTERNALS = f"{TENSORFLOW}.tracing", f"{TENSORFLOW}.internals"

# What each folder may import of the package, beside itself.
ALLOWED = {
    "records": set(),
    "rules": {"records"},
    "model": set(),
    "graph": {"records"},
    "source": {"records", "model"},
    "measure": {"records"},
    "diagnosis": {"graph", "source", "model", "records", "rules"},
    "advice": {"diagnosis", "graph", "source", "model", "records"},
    "report": {"records", "rules"},
    "view": {"records", "report"},
    INTERNALS: set(),
    CAPTURE: {INTERNALS, "model", "records"},
    TRACING: {INTERNALS, "graph", "source", "model", "records"},
    HOOK: {CAPTURE, TRACING, INTERNALS, "model", "records", "errors"},
    "monitor": {
        "advice",
        "backend",
        "diagnosis",
        "graph",
        "source",
        "measure",
        "report",
        "model",
        "records",
        "errors",
        "thresholds",
        "expected",
    },
}
# Which other packages a folder may import, beside the standard library.
OUTER = {
    "records": {"numpy"},
    "rules": set(),
    "model": {"keras"},
    "graph": {"numpy"},
    "source": {"keras"},
    "measure": {"numpy"},
    "diagnosis": {"numpy", "keras"},
    "advice": {"numpy", "keras"},
    "report": {"numpy", "tensorboard", "google"},
    "view": {"numpy", "tensorboard", "werkzeug", "markupsafe"},
    "monitor": {"numpy", "keras"},
    "backend": {"keras"},
    INTERNALS: {"numpy", "keras", "tensorflow"},
    CAPTURE: {"numpy", "keras", "tensorflow"},
    TRACING: {"numpy", "keras", "tensorflow"},
    HOOK: {"numpy", "keras", "tensorflow"},
}
ENTRIES = {"callback", "loop", "loss", "model_check", "loss_check", "replay"}
OUTSIDE = ("tensorflow", "keras", "numpy", "tensorboard", "google", "werkzeug")


def outer(module):
    """The other packages that a module imports, among those that count."""
    tops = {name.split(".")[0] for name in structure.names_imported(module)}
    return tops.intersection(OUTSIDE)


@pytest.mark.parametrize("folder", ALLOWED)
def test_arrows_run_one_way(folder):
    """A folder imports what the table allows it, and nothing else."""
    found = {
        f"{module} -> {other}"
        for module in structure.files()
        if structure.folder(module) == folder
        for other in structure.imports(module)
        if (structure.folder(other) or other) not in ALLOWED[folder] | {folder}
    }
    assert set() == found


@pytest.mark.parametrize("folder", OUTER)
def test_other_packages(folder):
    """TensorFlow is imported under `backend/tensorflow` alone."""
    found = {
        f"{module} -> {name}"
        for module in structure.files()
        if structure.folder(module) == folder
        for name in outer(module) - OUTER[folder]
    }
    assert set() == found


def test_entry_points():
    """Nothing imports one, and none imports TensorFlow."""
    for module in structure.files():
        found = ENTRIES & structure.imports(module)
        assert module == "__main__" or not found
        if not structure.folder(module):
            assert "tensorflow" not in outer(module), module


def test_private_names():
    """Those of TensorFlow and Keras stand in two folders."""
    for module in structure.files():
        private = {
            name
            for name in structure.names_imported(module)
            if name.startswith(("tensorflow.python", "keras.src"))
        }
        assert structure.folder(module) in (INTERNALS, "model") or not private


def test_one_place_asks_for_the_backend():
    """All else asks `keras_gradguard.backend`."""
    asking = [
        module
        for module, path in structure.files().items()
        if re.search(r"(backend|config)\.backend\(", path.read_text())
    ]
    assert ["backend"] == asking


def test_folders_are_all_in_the_table():
    """A new folder needs a row."""
    folders = {structure.folder(module) for module in structure.files()}
    assert folders - {"", "backend", TENSORFLOW} == set(ALLOWED)


def test_size_of_the_package():
    """Modules are subjects, not remainders of a neighbour."""
    assert [] == structure.circles()
    assert len(structure.modules()) <= 137
    assert len(structure.single_clients()) <= 36
    assert len(structure.longest_chain()) <= 13
