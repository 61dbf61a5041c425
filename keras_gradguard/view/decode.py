"""What a run holds, read and decoded.

An event file may be damaged, forged or of another program. Whatever it holds is
decoded here and nowhere else, so that what the rest of `view` and the page get
is of the types they expect, and all else is a `ReadError` of that run alone.
"""

import contextlib
import dataclasses
import json
import math

from tensorboard.data import provider

from keras_gradguard.records.kinds import BROKEN, STATUSES, VERDICTS
from keras_gradguard.records.norms import MISSING, UNMEASURED
from keras_gradguard.records.reading import diagnosis_of
from keras_gradguard.records.text import replay_command
from keras_gradguard.report.layout import (
    MOST_ACCEPTED,
    MOST_FACTS,
    MOST_LETTERS,
    PLUGIN,
    VERSION,
    whole,
)

# JSON as the page reads it holds each whole number below this one.
_LARGEST = 2**53
# More than a window ever merges; the sum of all windows is an int64.
_MOST_MERGED = 2**31
# What is written is nested about ten times.
_MOST_NESTED = 64
_MOST_CHARACTERS = 200
# How JSON is written where there is no number for it.
_NOT_FINITE = ("nan", "inf", "-inf")
# More points than a tag ever has.
_ALL = 10**9


class ReadError(ValueError):
    """The records of a run cannot be shown; the text says why."""


@dataclasses.dataclass(frozen=True)
class Signed:
    """What one training has written of one kind.

    Args:
        started: When it has started, in seconds.
        begin: Number of updates that were made before it.
        items: What it has told.
    """

    started: float
    begin: float
    items: list


class Store:
    """Reads the runs of one experiment.

    Args:
        data_provider: The `DataProvider` of TensorBoard.
        context: The `RequestContext`.
        experiment: The experiment, as TensorBoard names it.
    """

    def __init__(self, data_provider, context, experiment):
        self._provider = data_provider
        self._known = {
            "ctx": context,
            "experiment_id": experiment,
            "plugin_name": PLUGIN,
        }
        self._last = {}

    def runs(self):
        """Returns the tags of each run: `{run: {tag: series}}`."""
        found = self._provider.list_tensors(**self._known)
        return dict(sorted(found.items()))

    def read_last(self, runs):
        """Reads the last points of all tags of some runs at once.

        A call for each takes longer: the fast server needs 40 ms to answer
        one. Where it fails, each run is read when it is asked for, so that
        only those fail that cannot be read.

        Args:
            runs: Names of the runs.
        """
        try:
            self._last = self._read(runs, None, 1) if runs else {}
        except Exception:
            self._last = {}

    def last(self, run, tags):
        """Returns the last point of each of some tags.

        Args:
            run: Name of the run.
            tags: Names of tags; one that the run has not is left out.

        Returns:
            `{tag: TensorDatum}`.

        Raises:
            ReadError: If TensorBoard cannot read one.
        """
        found = self.points(run, tags, 1)
        return {tag: points[-1] for tag, points in found.items() if points}

    def points(self, run, tags, most=_ALL):
        """Returns the points of some tags of a run.

        Args:
            run: Name of the run.
            tags: Names of tags.
            most: How many of each tag, the last one among them.

        Returns:
            `{tag: [TensorDatum]}`.

        Raises:
            ReadError: If TensorBoard cannot read one.
        """
        if not tags:
            return {}
        if most == 1 and run in self._last:
            found = self._last[run]
            return {tag: found[tag] for tag in tags if tag in found}
        try:
            return self._read([run], list(tags), most).get(run, {})
        except Exception as error:
            # It decodes tensors on its own, and documents no exception.
            raise broken(run, "TensorBoard cannot read it", error) from error

    def _read(self, runs, tags, most):
        return self._provider.read_tensors(
            **self._known,
            run_tag_filter=provider.RunTagFilter(runs=runs, tags=tags),
            downsample=most,
        )


class Decoder:
    """Decodes what a run holds; all else is a `ReadError`.

    Args:
        run: Name of the run, for the error.
    """

    def __init__(self, run):
        self._run = run

    def check(self, series):
        """Checks that this version can read a run.

        Args:
            series: Its tags, as `Store.runs` returns them.
        """
        for tag, known in series.items():
            with self._decoding(tag):
                self._check_version(_json(known.plugin_content))

    def variables(self, tag, point):
        """Returns a dict for each variable of a schema, see `schema.whole`.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
        """
        with self._decoding(tag):
            content = _fields(self._content(point), {"variables": _is_list})
            return [whole(_variable(row)) for row in content["variables"]]

    def cells(self, tag, point, number):
        """Returns norms and update ratios, `[2, variables]`.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
            number: Number of variables.
        """
        with self._decoding(tag):
            _check_step(point.step)
            _check(point.numpy, (2, number), "float32", f"{number} variables")
            _check_cells(point.numpy)
            return point.numpy

    def window(self, tag, point):
        """Returns first step, number of records and global norm of a window.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
        """
        with self._decoding(tag):
            _check(point.numpy, (3,), "float64", "a window")
            _check_cells(point.numpy[2:])
            first, number, norm = point.numpy.tolist()
            is_sound = 0 <= first <= point.step and 1 <= number <= _MOST_MERGED
            if not is_sound or first % 1 or number % 1:
                raise ValueError(f"{number} records from step {first} on")
            return int(first), int(number), norm

    def diagnoses(self, tag, point):
        """Returns the `Diagnosis`es of a training as `Signed`.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
        """
        return self._signed(tag, point, _diagnosis)

    def incidents(self, tag, point):
        """Returns what `incident.told` returned, as `Signed`.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
        """
        return self._signed(tag, point, _incident)

    def losses(self, tag, point):
        """Returns what `tab.losses_record` returned, as the one of `Signed`.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
        """
        with self._decoding(tag):
            content = self._content(point)
            return Signed(*_signature(content), [_losses(content)])

    def verdict(self, tag, point):
        """Returns what `layout.verdict_record` did, as the one of `Signed`.

        Args:
            tag: The tag.
            point: A `TensorDatum`.
        """
        with self._decoding(tag):
            content = self._content(point)
            return Signed(*_signature(content), [_verdict(content)])

    def _signed(self, tag, point, decode):
        with self._decoding(tag):
            content = self._content(point)
            known = _fields(content, {"items": _is_list})
            items = [decode(item) for item in known["items"]]
            return Signed(*_signature(content), items)

    def _content(self, point):
        """Returns the JSON object of a point, of a version that we read."""
        content = _json(point.numpy.item())
        self._check_version(content)
        _check_depth(content)
        return content

    def _check_version(self, content):
        version = content.get("version")
        if not _is_whole(version) or version < 1:
            raise ValueError(f"its version is {version!r}")
        if version > VERSION:
            raise ReadError(
                f"run {self._run!r} was written by a later version of "
                f"keras_gradguard (records of version {version}, this one "
                f"reads {VERSION}): upgrade keras_gradguard where TensorBoard "
                "runs"
            )

    @contextlib.contextmanager
    def _decoding(self, tag):
        """Makes a `ReadError` of whatever foreign data can raise."""
        try:
            yield
        except ReadError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise broken(self._run, f"{tag!r} cannot be read", error) from error


def broken(run, what, error):
    """Returns the `ReadError` of a run that holds what cannot be read.

    Args:
        run: Name of the run.
        what: What cannot be read.
        error: What has been raised.
    """
    reason = " ".join(str(error).split())
    if type(error) not in (TypeError, ValueError):
        reason = f"{type(error).__name__}: {reason}"
    if len(reason) > _MOST_CHARACTERS:
        reason = reason[:_MOST_CHARACTERS] + "…"
    return ReadError(f"run {run!r} holds a broken record: {what} ({reason})")


def _json(content):
    if not isinstance(content, bytes):
        raise ValueError(f"it is not text but of type {type(content).__name__}")
    found = json.loads(content.decode())
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _check_depth(content):
    """Checks that what goes over it by recursion will not fail."""
    level = [content]
    for _ in range(_MOST_NESTED):
        below = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {_MOST_NESTED} times")


def _check_step(step):
    if not 0 <= step < _LARGEST:
        raise ValueError(f"its step is {step}")


def _check(numbers, shape, dtype, what):
    if numbers.shape != shape or numbers.dtype.name != dtype:
        raise ValueError(
            f"{numbers.shape} {numbers.dtype} numbers for {what}, not {shape} "
            f"{dtype}"
        )


def _check_cells(numbers):
    below = numbers[numbers < 0]
    if ((below != MISSING) & (below != UNMEASURED)).any():
        raise ValueError(f"it has the norm {below.min()}")


def _signature(content):
    known = _fields(content, {"started": _is_number, "begin": _is_number})
    return known["started"], known["begin"]


def _diagnosis(values):
    try:
        found = diagnosis_of(values)
        _fields(vars(found), _DIAGNOSIS)
        _fields(found.evidence, {"snippet_start": _maybe(_is_whole)})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a diagnosis that cannot be read: {error}") from error
    return found


def _incident(values):
    known = _fields(values, _INCIDENT)
    # A command that is stored is not shown: somebody might run it.
    return {**known, "command": replay_command(known["folder"])}


def _losses(values):
    known = _fields(values, _LOSSES)
    known["terms"] = [_fields(term, _TERM) for term in known["terms"]]
    number = len(known["variables"])
    for term in known["terms"]:
        for name in ("reaches", "norms"):
            column = term[name]
            if column is not None and len(column) != number:
                raise ValueError(
                    f"`{name}` of the term {term['name']!r} has {len(column)} "
                    f"figures for {number} variables"
                )
    return known


def _verdict(values):
    known = _fields(values, _VERDICT)
    verdict, has_ended = known["verdict"], known["has_ended"]
    if verdict not in (VERDICTS if has_ended else (None, BROKEN)):
        when = "has ended" if has_ended else "has not ended"
        raise ValueError(
            f"its `verdict` is {verdict!r} although the training {when}"
        )
    return known


def _variable(values):
    known = _fields(values, _VARIABLE)
    # A row has a key where its path does not tell it from all others.
    return {name: value for name, value in known.items() if value is not None}


def _fields(values, kinds):
    """Returns the fields of an object; `kinds` says whether each fits."""
    if not isinstance(values, dict):
        raise ValueError(f"{values!r} is not an object")
    for name, fits in kinds.items():
        if not fits(values.get(name)):
            raise ValueError(f"its `{name}` is {values.get(name)!r}")
    return {name: values.get(name) for name in kinds}


def _is_text(value):
    return isinstance(value, str)


def _is_truth(value):
    return isinstance(value, bool)


def _is_list(value):
    return isinstance(value, list)


def _is_line(value):
    return (
        _is_text(value) and len(value) <= MOST_LETTERS and value.isprintable()
    )


def _is_whole(value):
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST


def _is_number(value):
    return _is_whole(value) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_figure(value):
    return _is_number(value) or (_is_text(value) and value in _NOT_FINITE)


def _maybe(fits):
    return lambda value: value is None or fits(value)


def _list_of(fits, most=math.inf):
    return lambda value: (
        _is_list(value) and len(value) <= most and all(map(fits, value))
    )


def _are_accepted(value):
    fits = _list_of(_is_line, MOST_ACCEPTED)
    return isinstance(value, dict) and all(
        status in STATUSES and fits(keys) for status, keys in value.items()
    )


_VARIABLE = {
    "path": _is_text,
    "shape": _list_of(_is_whole),
    "dtype": _is_text,
    "key": _maybe(_is_text),
    "optimizer": _maybe(_is_text),
}
# What `stored` does not check, since only the page minds.
_DIAGNOSIS = {
    **dict.fromkeys(("line", "step", "epoch"), _maybe(_is_whole)),
    "num_variables": _is_whole,
}
_INCIDENT = {
    "step": _is_whole,
    "epoch": _maybe(_is_whole),
    "folder": _is_text,
    "samples": _maybe(_list_of(_is_whole)),
    "num_samples": _maybe(_is_whole),
    "batch_size": _maybe(_is_whole),
    "variables": _list_of(_is_text),
    "message": _maybe(_is_text),
    "notes": _maybe(_list_of(_is_text)),
}
_LOSSES = {
    "step": _maybe(_is_whole),
    "variables": _list_of(_is_text),
    "terms": _is_list,
}
_VERDICT = {
    "verdict": _maybe(_is_line),
    "has_ended": _is_truth,
    "facts": _list_of(_is_line, MOST_FACTS),
    "accepted": _are_accepted,
}
_TERM = {
    "name": _is_text,
    "kind": _is_text,
    "reaches": _list_of(_is_truth),
    "norms": _maybe(_list_of(_maybe(_is_figure))),
    "step": _maybe(_is_whole),
    "note": _maybe(_is_text),
}
