"""Incidents that no training of ours has written, read and replayed."""

import io
import json
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_gradguard.__main__ import main
from keras_gradguard.replay import read_incident
from tests.entry.forging import DEEP, HOSTILE, UNSEEN, places, replaced
from tests.monitor.test_incident import run

MOST_BYTES = 200 * 2**20


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a model and an incident of it."""
    folder = tmp_path_factory.mktemp("incident")
    _, (incident,) = run(folder)
    return folder, incident


@pytest.fixture
def forged(sound, tmp_path):
    """A copy of the incident, and the model that it is of."""
    folder, incident = sound
    copy = tmp_path / "step_0"
    shutil.copytree(incident, copy)
    return copy, f"{folder / 'incident_model.py'}:model"


def read(folder):
    """Reads an incident; returns what is said of one that cannot be read."""
    tracemalloc.start()
    try:
        read_incident(str(folder))
    except ValueError as error:
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES
    return None


def replay(folder, model, capsys):
    """Replays one on the command line; returns the exit code and the words."""
    code = main(["replay", str(folder), "--model", model])
    said = capsys.readouterr()
    assert UNSEEN.search(said.out + said.err) is None
    if code == 2:
        assert said.err.startswith("keras-gradguard: ")
        assert said.err.count("\n") == 1
        assert len(said.err) < 2_000
        assert said.out == ""
    return code, said.err


def test_forged_records(forged):
    """Each place of the record holds each hostile value."""
    folder, _ = forged
    file = folder / "incident.json"
    whole = file.read_text()
    record = json.loads(whole)
    texts = [whole[:n] for n in range(0, len(whole), 301)]
    texts += [DEEP, whole.replace('"none"', DEEP), "\x00", "\ufeff{}"]
    for place in places(record):
        texts += [json.dumps(replaced(record, place, x)) for x in HOSTILE]
    assert len(texts) > 500
    sentences = set()
    for text in texts:
        file.write_text(text)
        said = read(folder)
        sentences.add(said is None or len(said) < 2_000)
    assert sentences == {True}


def test_bytes_that_are_no_text(forged):
    """A record that is no UTF-8."""
    folder, _ = forged
    (folder / "incident.json").write_bytes(b"\xff\xfe\x00{")
    assert "is damaged" in read(folder)


def header(shape, dtype="<f4"):
    """The header of an array of NumPy's."""
    file = io.BytesIO()
    known = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, known)
    return file.getvalue()


def zipped(folder, change, method=zipfile.ZIP_STORED):
    """Writes the arrays anew; `change` gets their bytes by name."""
    path = folder / "arrays.npz"
    with zipfile.ZipFile(path) as kept:
        members = {name: kept.read(name) for name in kept.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", method) as kept:
        for name, content in members.items():
            kept.writestr(name, content)


def set_all(content):
    """Returns what gives all members one content."""
    return lambda members: members.update(dict.fromkeys(members, content))


def without_one(members):
    """Takes an array away."""
    del members["w0_1.npy" if "w0_1.npy" in members else min(members)]


def plain_header(text):
    """A header of any text."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


ARRAYS = {
    "nested": set_all(plain_header(b"(" * 9000)),
    "deep": set_all(plain_header(b"[" * 4000 + b"]" * 4000)),
    "open string": set_all(plain_header(b"{'descr': '''")),
    "indented": set_all(plain_header(b"  1\n 2\n")),
    "long": set_all(plain_header(b" " * 60_000)),
    "empty": set_all(b""),
    "garbage": set_all(b"\x93NUMPY\x09\x00" + b"\xff" * 90),
    "no header": set_all(b"PK\x03\x04" * 40),
    "claims 4 TB": set_all(header((10**12,))),
    "claims a power": set_all(header((10**400,))),
    "claims less": set_all(header((1,)) + b"\x00" * 4096),
    "negative": set_all(header((-1,))),
    "objects": set_all(header((1,), "|O") + b"\x80\x04N."),
    "texts": set_all(header((1,), "<U9") + b"\x00" * 36),
    "dates": set_all(header((1,), "<M8[s]") + b"\x00" * 8),
    "nothing": set_all(header((0, 2**62), "<f4")),
    "one missing": without_one,
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
def test_forged_arrays(change, forged, capsys):
    """No array is made of what a header claims."""
    folder, model = forged
    zipped(folder, change)
    assert "is damaged" in read(folder)
    assert replay(folder, model, capsys)[0] == 2


def test_arrays_that_nobody_names(forged):
    """A bomb beside them is not unpacked."""
    folder, _ = forged
    bomb = np.zeros(2**28, np.uint8)
    zipped(folder, lambda members: None)
    with zipfile.ZipFile(folder / "arrays.npz", "a") as kept:
        kept.writestr("bomb.npy", bomb.tobytes(), zipfile.ZIP_DEFLATED)
    assert read(folder) is None


def test_compressed_arrays(forged):
    """They could be a thousand times as large as the file."""
    folder, _ = forged
    zipped(folder, lambda members: None, zipfile.ZIP_DEFLATED)
    assert "compressed" in read(folder)


@pytest.mark.parametrize("cut", [0, 1, 22, 400, -1, -30])
def test_cut_arrays(cut, forged):
    """What a full disk or a broken copy leaves."""
    folder, _ = forged
    path = folder / "arrays.npz"
    path.write_bytes(path.read_bytes()[:cut])
    assert "is damaged" in read(folder)


def test_flipped_bits(forged):
    """A checksum that does not fit, or a sound incident all the same."""
    folder, _ = forged
    path = folder / "arrays.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        content = bytearray(whole)
        content[place] ^= 0x55
        path.write_bytes(content)
        assert len(read(folder) or "") < 2_000


@pytest.mark.parametrize("name", ["incident.json", "arrays.npz"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "gone", "large"])
def test_what_is_no_file(kind, name, forged, capsys):
    """A pipe that nobody writes to must not be waited for."""
    folder, model = forged
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with open(path, "wb") as file:
            file.truncate(2**40)
    assert "is not an incident folder" in read(folder)
    assert replay(folder, model, capsys)[0] == 2


def fewer(record):
    """The incident of a model with a variable less."""
    del record["weights"][0], record["names"][0]


def more(record):
    """That of one with three times as many."""
    record["weights"] *= 3
    record["names"] *= 3


def fewer_weights(record):
    """A value less than variables."""
    del record["weights"][-2:]


def other_shape(record):
    """A variable that its value does not fit."""
    record["names"][0][1] = [4, 4]


def other_type(record):
    """A value of another type."""
    record["weights"][0][1] = "float64"


def other_seed(record):
    """A type that TensorFlow does not know."""
    record["weights"][0][1] = "float0"


@pytest.mark.parametrize(
    "change",
    [fewer, more, fewer_weights, other_shape, other_type, other_seed],
)
def test_weights_that_do_not_fit(change, forged, capsys):
    """It is no replay with the values of a new model."""
    folder, model = forged
    file = folder / "incident.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    code, said = replay(folder, model, capsys)
    assert code == 2
    assert "is damaged" in said or "does not match" in said


@pytest.mark.parametrize("field", ["notes", "paths", "dtype_policy", "hit"])
def test_hostile_words(field, forged, capsys):
    """Words of the record come on a terminal escaped, or not at all."""
    folder, model = forged
    file = folder / "incident.json"
    record = json.loads(file.read_text())
    word = "\x1b[2J\x1b]0;title\x07\u202e"
    if isinstance(record[field], list):
        record[field] = [word] * max(1, len(record[field]))
    else:
        record[field] = word
    file.write_text(json.dumps(record))
    assert replay(folder, model, capsys)[0] in (0, 2)


BATCHES = (
    {"tensor": ["b0", "string"]},
    {"ragged": [{"none": True}]},
    {"ragged": [{"tensor": ["b0", "float32"]}] * 3},
    {"sparse": [{"tensor": ["b0", "float32"]}] * 3},
    {"sparse": []},
    {"dict": [[[], {"none": True}]]},
    {"dict": 3},
    {"none": True},
    {"tensor": ["../../secret", "float32"]},
    {"tensor": ["w0_0", "bfloat16"]},
    {"tuple": [{"tuple": [{"tuple": []}]}]},
    {"shell": "true"},
    {},
)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_forged_batches(batch, forged, capsys):
    """What is no batch of this model gets one sentence."""
    folder, model = forged
    file = folder / "incident.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "batch": batch}))
    assert replay(folder, model, capsys)[0] == 2
