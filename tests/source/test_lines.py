"""The lines that are shown are those of the code that runs, or none."""

import importlib
import importlib.util
import linecache
import os
import sys
import zipfile

import keras
import pytest

from keras_gradguard import GradHealthCallback
from keras_gradguard.errors import GradientBreakError
from keras_gradguard.source.lines import is_changed, lines_of
from tests.fitting import X, Y, classifier

TEXT = """\
import keras


def cut(y_true, y_pred):
    hard = keras.ops.round(y_pred)
    return keras.ops.mean(keras.ops.square(y_true - hard), -1)
"""
LINE = 5


@pytest.fixture
def module(tmp_path):
    """A module of the user's; `module(text)` writes and imports it."""
    path = tmp_path / "edited_loss.py"
    names = []

    def make(text=TEXT, encoding="utf-8"):
        path.write_bytes(text.encode(encoding))
        spec = importlib.util.spec_from_file_location("edited_loss", path)
        made = importlib.util.module_from_spec(spec)
        sys.modules["edited_loss"] = made
        names.append("edited_loss")
        spec.loader.exec_module(made)
        return made

    yield make
    for name in names:
        sys.modules.pop(name, None)
    linecache.cache.pop(str(path), None)


def told(loss):
    """The one diagnosis of a fit."""
    callback = GradHealthCallback(every=1)
    with pytest.raises(GradientBreakError):
        classifier(loss).fit(X, Y, verbose=0, callbacks=[callback])
    (found,) = callback.report.diagnoses
    return found


def edit(path, text):
    """Puts another text in the place of a file, as editors do."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)
    linecache.checkcache(str(path))


EDITS = {
    "lines above": "import os\nimport sys\n\n\n" + TEXT,
    "another statement": TEXT.replace("round", "tanh"),
    "another number": TEXT.replace(", -1)", ", -2)"),
    "shorter": "import keras\n",
    "no Python": "def :\n" * 9,
}


@pytest.mark.parametrize("text", EDITS.values(), ids=EDITS)
def test_edited_after_its_import(text, module, tmp_path):
    """The line is named, its text is not shown, and a note says so."""
    loss = module().cut
    edit(tmp_path / "edited_loss.py", text)
    found = told(loss)
    assert (LINE, ()) == (found.line, found.snippet)
    (note,) = [n for n in found.evidence["notes"] if "changed" in n]
    assert note.startswith("edited_loss.py has changed since")
    assert note in " ".join(str(found).split())


def test_not_edited(module):
    """A file that is as it was shows its lines."""
    found = told(module().cut)
    assert found.line == LINE
    assert "    hard = keras.ops.round(y_pred)" in found.snippet
    assert not any("changed" in n for n in found.evidence.get("notes", ()))


def test_edited_after_the_first_look(module, tmp_path):
    """What was seen when it was right is shown."""
    loss = module().cut
    first = told(loss)
    edit(tmp_path / "edited_loss.py", EDITS["lines above"])
    assert first.snippet == told(loss).snippet != ()


def test_edited_and_imported_anew(module, tmp_path):
    """The new lines belong to the new code."""
    told(module().cut)
    path = tmp_path / "edited_loss.py"
    edit(path, EDITS["lines above"])
    new = module(EDITS["lines above"]).cut
    found = told(new)
    assert LINE + 4 == found.line
    assert "    hard = keras.ops.round(y_pred)" in found.snippet


def test_deleted(module, tmp_path):
    """Then there are no lines, and nothing has changed."""
    loss = module().cut
    path = tmp_path / "edited_loss.py"
    path.unlink()
    linecache.cache.pop(str(path), None)
    found = told(loss)
    assert (LINE, ()) == (found.line, found.snippet)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig"])
def test_another_encoding(encoding, module):
    """The file says which one; its lines are shown."""
    cookie = "" if "utf" in encoding else f"# -*- coding: {encoding} -*-\n"
    text = cookie + TEXT.replace("(y_pred)\n", "(y_pred)  # höher\n")
    found = told(module(text, encoding).cut)
    assert any("# höher" in line for line in found.snippet)


def test_in_a_zip_file(tmp_path, monkeypatch):
    """A module in an archive has a source too."""
    archive = tmp_path / "losses.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped_loss.py", TEXT)
    monkeypatch.syspath_prepend(archive)
    try:
        found = told(importlib.import_module("zipped_loss").cut)
    finally:
        module = sys.modules.pop("zipped_loss")
        linecache.cache.pop(module.__file__, None)
    assert LINE == found.line
    assert "    hard = keras.ops.round(y_pred)" in found.snippet


def test_executed_text():
    """Code of no file has a line number, and no lines."""
    names = {}
    exec(compile(TEXT, "<string>", "exec"), names)
    found = told(names["cut"])
    assert (LINE, ()) == (found.line, found.snippet)


def test_cell_of_a_notebook():
    """Its lines are in `linecache` only, and belong to it."""
    name, names = "<ipython-input-7-5a1d>", {}
    lines = TEXT.splitlines(keepends=True)
    linecache.cache[name] = len(TEXT), None, lines, name
    try:
        exec(compile(TEXT, name, "exec"), names)
        found = told(names["cut"])
    finally:
        del linecache.cache[name]
    assert "    hard = keras.ops.round(y_pred)" in found.snippet


def test_code_that_pytest_has_rewritten():
    """Names of its own are in this function, and in no source."""

    def here(x):
        assert x is not None
        return x

    code = here.__code__
    assert lines_of(__file__, "here", code.co_firstlineno + 1)
    assert not is_changed(__file__, "here", code.co_firstlineno + 1)


def test_no_file():
    """Asked for nothing, nothing is found."""
    assert [] == lines_of(None)
    assert not is_changed(None)
    assert lines_of(keras.__file__)
