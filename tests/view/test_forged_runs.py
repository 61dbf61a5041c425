"""A run that cannot be read is an error of that run, and of no other."""

import copy
import json
import sys
import types

import numpy as np
import pytest

from keras_gradguard.records.kinds import VERDICTS
from keras_gradguard.report.layout import (
    DIAGNOSES,
    INCIDENTS,
    LOSSES,
    SCHEMA,
    VERDICT,
)
from keras_gradguard.view.decode import Decoder, ReadError, Store
from keras_gradguard.view.details import card_of
from tests.view.board import Board
from tests.view.forged import CASES, SOUND, nested, write_all
from tests.view.served import Served

GOOD = "good/gradients"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log folder of one sound run and of all forged ones."""
    made = tmp_path_factory.mktemp("forged")
    write_all(made)
    return made


@pytest.fixture(scope="module")
def served(folder):
    return Served(folder)


@pytest.fixture(scope="module")
def listed(served):
    """What the list tells of each run."""
    return {known["run"]: known for known in served.json("runs")["runs"]}


def test_all_others_are_shown(served, listed):
    assert {GOOD, *CASES} == set(listed)
    assert listed[GOOD]["error"] is None
    assert ["norms", "details"] == listed[GOOD]["readable"]
    assert [[1.0]] == served.table(GOOD)["norms"]
    assert [] == served.json("details", run=GOOD)["diagnoses"]


@pytest.mark.parametrize("name", CASES)
def test_forged(name, served, listed):
    """The list has one sentence, and whoever picks the run reads it too."""
    case, known = CASES[name], listed[name]
    for route in ("norms", "details"):
        if route in case.routes:
            error = served.refused(route, run=name)
            assert error.startswith(f"run {name!r} ")
            assert case.words in error
            assert "\n" not in error and len(error) < 400
            is_listed = case.is_listed or known["error"] is not None
            assert known["error"] == (error if is_listed else None)
            assert is_listed == (route not in known["readable"])
        else:
            served.json(route, run=name)
            assert route in known["readable"]


def test_fast_server(folder):
    """The other server of TensorBoard hands on the same."""
    board = Board(folder, is_fast=True)
    try:
        board.until(lambda runs: len(runs) == 1 + len(CASES))
        runs = {known["run"]: known for known in board.runs()}
    finally:
        board.close()
    assert runs.pop(GOOD)["error"] is None
    wrong = {name for name, known in runs.items() if known["error"] is not None}
    assert {n for n, case in CASES.items() if case.is_listed} == wrong


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_tensorboard(folder):
    """All forged runs, read by every route, cost less than 200 MB."""
    used = []
    for shown, number in ((folder / "good", 1), (folder, 1 + len(CASES))):
        board = Board(shown, is_fast=False)
        try:
            board.until(lambda runs, number=number: len(runs) == number)
            for known in board.runs():
                for route in ("norms", "details"):
                    assert board.read(route, known["run"])
            used.append(board.most_bytes())
        finally:
            board.close()
    ordinary, forged = used
    assert forged - ordinary < 200 * 2**20, used


class Raising:
    """A data provider that fails to read."""

    def __init__(self, error):
        self.error = error

    def read_tensors(self, **known):
        raise self.error


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyError(20), OSError(5, "line\nbreak" * 99)]
)
def test_tensorboard_fails(error):
    """Whatever TensorBoard raises where it decodes a tensor, in one line."""
    store = Store(Raising(error), None, "")
    for read in (store.last, store.points):
        with pytest.raises(ReadError, match="TensorBoard cannot") as caught:
            read("bad", ["tag"])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
        assert type(error).__name__ in str(caught.value)


HUGE = 10**400
TEXT, WORD, WHOLE, COUNT, NUMBER, TEXTS, MAYBE_TEXTS, WHOLES, LIST = (
    # What each kind of field is not.
    [None, 3, 1.5, True, [], {}, ["x"]],
    [3, 1.5, True, [], {}, ["x"]],
    [None, "x", 1.5, True, [], {}, HUGE, float("inf"), float("nan")],
    ["x", 1.5, True, [], {}, HUGE, float("inf"), float("nan")],
    [None, "x", True, [], {}, HUGE, float("inf"), float("nan")],
    [None, "x", 3, {}, [3], [None], ["x", []]],
    ["x", 3, {}, [3], [None], ["x", []]],
    ["x", 3, {}, ["x"], [None], [1.5], [HUGE], [[]]],
    [None, "x", 3, {}, {"x": 1}],
)
# By the beginning of the tag, where in it each field stands.
FIELDS = {
    SCHEMA: {
        ("variables",): [*LIST, [3], [None], [[]]],
        ("variables", 0, "path"): TEXT,
        ("variables", 0, "dtype"): TEXT,
        ("variables", 0, "key"): WORD,
        ("variables", 0, "optimizer"): WORD,
        ("variables", 0, "shape"): [None, *WHOLES],
    },
    DIAGNOSES: {
        ("started",): NUMBER,
        ("begin",): NUMBER,
        ("items",): [*LIST, [3], [None], [[]], [{}]],
        ("items", 0, "schema"): [None, "x", 0, 7, [], {}, HUGE],
        **{
            ("items", 0, name): [v for v in TEXT if v is not True]
            for name in ("code", "name", "message", "why", "certainty")
        },
        **{
            ("items", 0, name): [None, "x", 3, [], {}]
            for name in ("kind", "severity")
        },
        **{
            ("items", 0, name): WORD
            for name in ("file", "function", "op", "layer", "loss")
        },
        **{("items", 0, name): COUNT for name in ("line", "step", "epoch")},
        ("items", 0, "num_variables"): WHOLE,
        **{
            ("items", 0, name): TEXTS
            for name in ("snippet", "variables", "path")
        },
        ("items", 0, "help"): [None, 3, "x", [3], [None], [{}]],
        ("items", 0, "help", 0, "text"): TEXT,
        ("items", 0, "help", 0, "before"): WORD,
        ("items", 0, "help", 0, "after"): WORD,
        ("items", 0, "evidence"): [None, 3, "x", []],
        ("items", 0, "evidence", "notes"): TEXTS,
        ("items", 0, "evidence", "snippet_start"): COUNT,
        ("items", 0, "evidence", "deep"): [nested(200)],
    },
    LOSSES: {
        ("started",): NUMBER,
        ("begin",): NUMBER,
        ("step",): COUNT,
        ("variables",): [*TEXTS, ["a/k"], []],
        ("terms",): [*LIST, [3], [None], [[]], [{}]],
        ("terms", 0, "name"): TEXT,
        ("terms", 0, "kind"): TEXT,
        ("terms", 0, "reaches"): [None, 3, "ab", [1, 0], [True], []],
        ("terms", 0, "norms"): [
            *("ab", 3, [1.0], [1.0, "x"], [1.0, HUGE], [1.0, []]),
            [1.0, float("inf")],
        ],
        ("terms", 0, "step"): COUNT,
    },
    INCIDENTS: {
        ("started",): NUMBER,
        ("begin",): NUMBER,
        ("items",): [*LIST, [3], [None], [[]], [{}]],
        ("items", 0, "step"): WHOLE,
        **{
            ("items", 0, name): COUNT
            for name in ("epoch", "num_samples", "batch_size")
        },
        ("items", 0, "folder"): TEXT,
        ("items", 0, "samples"): WHOLES,
        ("items", 0, "variables"): TEXTS,
        ("items", 0, "message"): WORD,
        ("items", 0, "notes"): MAYBE_TEXTS,
    },
}


FIELDS[VERDICT] = {
    ("started",): NUMBER,
    ("begin",): NUMBER,
    ("verdict",): [*TEXT, "fine", "Healthy", "healthy ", "x" * 10**6],
    ("has_ended",): [None, 1, 0, "true", "", [], {}, False],
    ("facts",): [*TEXTS, ["x" * 10**6], ["a\nb"], ["a\x00b"], ["x"] * 999],
    ("accepted",): [
        *(None, 3, "x", [], ["a"], {"fine": ["a"]}, {"zero": "a"}),
        *({"zero": [3]}, {"zero": {"a": 1}}, {"zero": ["a\x1bb"]}),
        {"zero": ["a"] * 999},
    ],
}


def decoded(kind, content):
    """Returns what a tag of a kind says, as the page gets it."""
    decoder = Decoder("bad")
    value = np.array(json.dumps(content).encode(), object)
    point = types.SimpleNamespace(step=0, numpy=value)
    if kind == SCHEMA:
        return decoder.variables("tag", point)
    if kind == DIAGNOSES:
        return [card_of(d) for d in decoder.diagnoses("tag", point).items]
    read = {
        LOSSES: decoder.losses,
        INCIDENTS: decoder.incidents,
        VERDICT: decoder.verdict,
    }
    return read[kind]("tag", point).items


@pytest.mark.parametrize("kind", FIELDS)
def test_each_field(kind):
    """One that is of another type than the page takes is an error."""
    assert json.dumps(decoded(kind, SOUND[kind]))
    for where, wrong in FIELDS[kind].items():
        for value in wrong:
            content = copy.deepcopy(SOUND[kind])
            place = content
            for step in where[:-1]:
                place = place[step]
            place[where[-1]] = value
            with pytest.raises(ReadError, match="broken record"):
                assert not decoded(kind, content), (where, value)


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("logs/step_3", "logs/step_3"),
        ("a b", "'a b'"),
        ("$(touch x); `y`", "'$(touch x); `y`'"),
        ("it's", "'it'\"'\"'s'"),
        ("--model=x", "./--model=x"),
        ("a\nreboot\n\x1b[2J", r"'a\nreboot\n\x1b[2J'"),
    ],
)
def test_command_of_an_incident(folder, word):
    """It is made of the folder and quoted; a stored one is not shown."""
    content = copy.deepcopy(SOUND[INCIDENTS])
    content["items"][0] |= {"folder": folder, "command": "rm -r ~"}
    (known,) = decoded(INCIDENTS, content)
    assert known["command"] == (
        f"python -m keras_gradguard replay {word} --model FILE.py:FUNCTION"
    )


@pytest.mark.parametrize("name", [n for n in SOUND[VERDICT] if n != "version"])
def test_no_field_of_a_verdict_may_be_missing(name):
    content = {k: v for k, v in SOUND[VERDICT].items() if k != name}
    with pytest.raises(ReadError, match=name):
        decoded(VERDICT, content)


@pytest.mark.parametrize("word", [*VERDICTS, None])
@pytest.mark.parametrize("has_ended", [True, False])
def test_words_of_a_verdict(word, has_ended):
    """Before the end a training may be broken, and nothing else."""
    content = {**SOUND[VERDICT], "verdict": word, "has_ended": has_ended}
    if word in (VERDICTS if has_ended else ("broken", None)):
        (known,) = decoded(VERDICT, content)
        assert (word, has_ended) == (known["verdict"], known["has_ended"])
    else:
        with pytest.raises(ReadError, match="`verdict`"):
            decoded(VERDICT, content)


@pytest.mark.parametrize("kind", [kind for kind in FIELDS if kind != VERDICT])
def test_fields_that_may_be_missing(kind):
    """What is left out is as the page expects it, or an error."""
    items = {SCHEMA: "variables", LOSSES: "terms"}.get(kind, "items")
    names = set(decoded(kind, SOUND[kind])[0])
    for name in SOUND[kind][items][0]:
        content = copy.deepcopy(SOUND[kind])
        del content[items][0][name]
        try:
            assert names == set(decoded(kind, content)[0])
        except ReadError as error:
            assert repr(name)[1:-1] in str(error)
