"""Values that no version of ours has stored, in place of those that it has."""

import copy
import re

DEEP = "[" * 50_000 + "]" * 50_000
# Begins of escape sequences, C1 codes and overrides of the direction of text.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
HOSTILE = (
    None,
    True,
    -1,
    1e300,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r",
    "x" * 100_000,
    [],
    {},
    [[[]]],
    {"\x1b[31m": "\x1b[31m"},
    ["\x1b[31m", None, 1],
)


def places(value, place=()):
    """The places in a value of JSON, the whole one included."""
    yield place
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from places(inner, (*place, key))


def replaced(value, place, other):
    """The value with another one at a place."""
    if not place:
        return other
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = other
    return value
