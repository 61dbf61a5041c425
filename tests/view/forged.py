"""Runs that no version of ours has written, and what each of them breaks."""

import dataclasses
import json

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2

from keras_gradguard.report import layout as tab
from keras_gradguard.report.event_file import EventFile
from keras_gradguard.report.writer import SummaryWriter
from tests.report.records import schema_of, write_norms
from tests.report.test_summaries import DIAGNOSIS

SCHEMA = schema_of(("a/k", "a/b"))
SCHEMA_TAG = tab.SCHEMA + SCHEMA.name
RECORD_TAG = tab.RECORD + SCHEMA.name
TRAINING = {"version": 1, "begin": 0, "started": 0.5}
INCIDENT = {
    "step": 3,
    "epoch": 0,
    "folder": "logs/incidents/step_3",
    "command": "python -m keras_gradguard replay logs/incidents/step_3",
    "samples": [1],
    "num_samples": 1,
    "batch_size": 8,
    "variables": ["a/k"],
    "message": "NaN",
    "notes": ["a note"],
}
TERM = {
    "name": "mse",
    "kind": "loss",
    "reaches": [True, False],
    "norms": [0.5, None],
    "step": 0,
}
LOSSES = {
    **TRAINING,
    "step": 0,
    "variables": ["a/k", "a/b"],
    "terms": [TERM, {**TERM, "name": "other", "norms": ["nan", None]}],
}
VERDICT = {
    **TRAINING,
    "verdict": "undecided",
    "has_ended": True,
    "facts": ["1 variable got exactly zero: a/k", "3 steps"],
    "accepted": {"missing": ["a/b"]},
}
# What is sound, by the beginning of its tag.
SOUND = {
    tab.SCHEMA: json.loads(SCHEMA.text),
    tab.DIAGNOSES: {**TRAINING, "items": [DIAGNOSIS.to_dict()]},
    tab.LOSSES: LOSSES,
    tab.INCIDENTS: {**TRAINING, "items": [INCIDENT]},
    tab.VERDICT: VERDICT,
}
ROUTES = {tab.SCHEMA: "norms"}  # of the other kinds it is "details"
DEEP = b"[" * 50_000 + b"]" * 50_000


def text(content):
    """Returns a tensor with a text, or with JSON."""
    value = summary_pb2.Summary().value.add()
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    if isinstance(content, str):
        content = content.encode()
    value.tensor.dtype = types_pb2.DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(content)
    return value.tensor


def numbers(values, dtype="<f4", shape=None, kind=None):
    """Returns a tensor with numbers; it may claim another shape or kind."""
    values = np.array(values, dtype)
    value = summary_pb2.Summary().value.add()
    kinds = {"<f4": types_pb2.DT_FLOAT, "<f8": types_pb2.DT_DOUBLE}
    value.tensor.dtype = kinds.get(dtype, types_pb2.DT_INT64)
    if kind is not None:
        value.tensor.dtype = kind
    for size in values.shape if shape is None else shape:
        value.tensor.tensor_shape.dim.add(size=size)
    value.tensor.tensor_content = values.tobytes()
    return value.tensor


def one_number(shape):
    """Returns a tensor that has one number for a shape, however large."""
    tensor = numbers([], shape=shape)
    tensor.float_val.append(1.0)
    return tensor


CELLS = numbers([[1, 2], [-2, 0.5]])
WINDOW = numbers([3, 2, 1.5], "<f8")


@dataclasses.dataclass(frozen=True)
class Forged:
    """A run that cannot be read, or not all of it.

    Args:
        routes: Which routes refuse it.
        points: Tag, step and tensor of each value.
        metadata: What each tag says of itself.
        words: What the error says.
        is_listed: Whether the list knows of it whoever reads the files.
    """

    routes: tuple
    points: tuple
    metadata: bytes = b'{"version": 1}'
    words: str = "holds a broken record"
    is_listed: bool = True

    def write(self, folder):
        """Writes the run."""
        file = EventFile(str(folder))
        for tag, step, tensor in self.points:
            event = event_pb2.Event(step=step)
            value = event.summary.value.add(tag=tag)
            value.tensor.CopyFrom(tensor)
            tab.mark_for_tab(event.summary, {tag})
            value.metadata.plugin_data.content = self.metadata
            file.write(event)
        file.close()


def write_all(folder):
    """Writes a run that is sound, `good/gradients`, and all of `CASES`."""
    writer = SummaryWriter(folder / "good")
    write_norms(writer, 0, 1.0, {"a/k": 1.0})
    writer.close()
    for name, case in CASES.items():
        case.write(folder / name)


def recorded(*points):
    """Returns the points of a run with the schema and records."""
    return ((SCHEMA_TAG, 0, text(SCHEMA.text)), *points)


def _metadata():
    sound = ((tab.DIAGNOSES + "x", 0, text(SOUND[tab.DIAGNOSES])), *recorded())
    points = (*sound, (RECORD_TAG, 1, CELLS))
    wrong = {
        "empty": b"",
        "not JSON": b"{",
        "not UTF-8": b'{"version": 1, "\xff": 1}',
        "deep": DEEP,
        "deep inside": b'{"version": ' + DEEP + b"}",
        "list": b"[1]",
        "no version": b"{}",
    }
    for value in ("Infinity", "-Infinity", "NaN", "1e999", "1.5", "true"):
        wrong[value] = f'{{"version": {value}}}'.encode()
    for value in ('"1"', "null", "[]", "{}", "0", "-1", "9" * 400, "9" * 5000):
        wrong[value[:9]] = f'{{"version": {value}}}'.encode()
    for name, content in wrong.items():
        routes = ("norms", "details")
        yield f"metadata {name}", Forged(routes, points, content)
    yield (
        "metadata later",
        Forged(routes, points, b'{"version": 2}', "later version"),
    )


def _texts():
    for kind, sound in SOUND.items():
        wrong = {
            "not JSON": text("{"),
            "not UTF-8": text(json.dumps(sound).encode() + b"\xff"),
            "UTF-16": text(json.dumps(sound).encode("utf-16")),
            "list": text([sound]),
            "null": text("null"),
            "deep": text(DEEP),
            "deep inside": text(
                b'{"deep": ' + DEEP + b"," + json.dumps(sound).encode()[1:]
            ),
            "rather deep": text({**sound, "deep": nested(200)}),
            "version": text({**sound, "version": float("inf")}),
            "huge version": text({**sound, "version": 10**400}),
            "no version": text({**sound, "version": None}),
            "numbers": numbers([1, 2]),
            "whole number": numbers(1, "<i8"),
            "two": numbers([], shape=[2], kind=types_pb2.DT_STRING),
            "unknown dtype": numbers([1], kind=9999),
            "shape": one_number([2**40, 2**40]),
        }
        wrong["two"].string_val.extend([json.dumps(sound).encode()] * 2)
        for name, tensor in wrong.items():
            route = ROUTES.get(kind, "details")
            yield f"{kind[10:-1]} {name}", _of_text(kind, route, tensor)
        later = text({**sound, "version": 2, "deep": nested(200)})
        yield (
            f"{kind[10:-1]} later",
            _of_text(kind, route, later, words="later version"),
        )


def _of_text(kind, route, tensor, **known):
    record = (RECORD_TAG, 1, CELLS)
    if kind == tab.SCHEMA:
        points = ((SCHEMA_TAG, 0, tensor), record)
    else:
        points = (*recorded(record), (kind + "x", 0, tensor))
    return Forged((route,), points, **known)


def _verdicts():
    wrong = {
        "unknown word": {"verdict": "fine"},
        "none at the end": {"verdict": None},
        "healthy before the end": {"has_ended": False, "verdict": "healthy"},
        "a megabyte": {"facts": ["x" * 10**6]},
        "control character": {"facts": ["a\x1b[2Jb"]},
        "turned text": {"facts": ["a\u202eb"]},
        "many facts": {"facts": ["x"] * 10**4},
        "many rows": {"accepted": {"missing": ["a/k"] * 10**4}},
    }
    for name, fields in wrong.items():
        tensor = text({**VERDICT, **fields})
        yield f"verdict {name}", _of_text(tab.VERDICT, "details", tensor)


def nested(number):
    """Returns lists in lists."""
    found = []
    for _ in range(number):
        found = [found]
    return found


def _records():
    wrong = {
        "shape": numbers([[1], [2]]),
        "rank": numbers([1, 2]),
        "scalar": numbers(1),
        "none": numbers([], shape=[2, 0]),
        "int": numbers([[1, 2], [3, 4]], "<i8"),
        "double": numbers([[1, 2], [3, 4]], "<f8"),
        "text": text("no numbers"),
        "unknown dtype": numbers([[1, 2], [3, 4]], kind=9999),
        "resource": numbers([[1, 2], [3, 4]], kind=types_pb2.DT_RESOURCE),
        "claimed shape": numbers([[1, 2], [3, 4]], shape=[2, 3]),
        "negative shape": numbers([[1, 2], [3, 4]], shape=[-2, -2]),
        "huge shape": one_number([2**40, 2**40]),
        "negative": numbers([[1, -3], [1, 1]]),
        "negative update": numbers([[1, 1], [1, -np.inf]]),
    }
    for name, tensor in wrong.items():
        points = recorded((RECORD_TAG, 1, CELLS), (RECORD_TAG, 2, tensor))
        yield f"record {name}", Forged(("norms",), points)
        # The list looks at the last record only, the slow server at all.
        points = (*points, (RECORD_TAG, 3, CELLS))
        case = Forged(("norms",), points, is_listed=False)
        yield f"record before {name}", case
    for name, step in {"step": -1, "huge step": 2**62}.items():
        points = recorded((RECORD_TAG, step, CELLS))
        yield f"record {name}", Forged(("norms",), points)


def _windows():
    wrong = {
        "text": text("no numbers"),
        "float": numbers([3, 2, 1.5]),
        "shape": numbers([3, 2], "<f8"),
    }
    for place, values in {
        "first": (np.nan, np.inf, -1, 1e300, 2.5, 5),
        "number": (np.nan, np.inf, 0, -1, 1e300, 1.5),
        "norm": (-3, -np.inf),
    }.items():
        for value in values:
            known = {"first": 3, "number": 2, "norm": 1.5, place: value}
            wrong[f"{place} {value}"] = numbers([*known.values()], "<f8")
    for name, tensor in wrong.items():
        points = recorded((RECORD_TAG, 4, CELLS), (tab.WINDOW, 4, tensor))
        yield f"window {name}", Forged(("norms",), points)


CASES = {
    name.replace("/", " "): case
    for make in (_metadata, _texts, _verdicts, _records, _windows)
    for name, case in make()
}
