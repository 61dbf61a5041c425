"""Records made of values that somebody else may have stored; no TensorFlow."""

import dataclasses
import reprlib
import types
import typing

_LARGEST = 2**63
# JSON has no numbers for them, so they are written as words.
_NOT_FINITE = {"nan", "inf", "-inf"}
# What values of other types and names raise.
FORGED = (AttributeError, KeyError, TypeError, ValueError)


def record_of(record, values, inner=types.MappingProxyType({})):
    """Makes a record of a dict, each field of the type that it has.

    Args:
        record: A dataclass; its annotations are what is expected.
        values: The dict; what no field has the name of is left out.
        inner: Name of a field -> what makes each item of its list.

    Raises:
        TypeError: If a field is missing, or of another type.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{shown(values)} stands where a dict is expected")
    hints, known = typing.get_type_hints(record), {}
    for field in dataclasses.fields(record):
        if field.name not in values:
            if field.default is field.default_factory is dataclasses.MISSING:
                raise TypeError(f"it has no `{field.name}`")
            continue
        value, hint = values[field.name], hints[field.name]
        if field.name in inner and isinstance(value, list):
            value = tuple(map(inner[field.name], value))
        value = _number(tuples(value)) if hint is not dict else value
        if not fits(value, hint):
            raise TypeError(f"its `{field.name}` is {shown(value)}")
        known[field.name] = value
    return record(**known)


def fits(value, hint):
    """Returns whether a value is of an annotated type."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if kind is tuple:
        # `tuple[item, ...]`
        is_tuple = isinstance(value, tuple)
        return is_tuple and all(fits(item, inner[0]) for item in value)
    if hint is int or hint is float:
        is_number = isinstance(value, (int, hint))
        is_small = not isinstance(value, int) or abs(value) < _LARGEST
        return is_number and is_small and not isinstance(value, bool)
    return isinstance(value, hint)


def tuples(value):
    """Returns a list of JSON as the tuple that a record holds."""
    if isinstance(value, list):
        return tuple(_number(tuples(item)) for item in value)
    return value


def shown(value):
    """Returns a value in few letters."""
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40


def _number(value):
    """A number that JSON has no way to write is a word there."""
    is_word = isinstance(value, str) and value in _NOT_FINITE
    return float(value) if is_word else value
