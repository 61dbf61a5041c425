"""Conditions of remedies: each takes a `Finding` and returns a bool."""

import re


def in_loss(finding):
    """Returns whether the op runs in no layer."""
    return finding.layer is None


def in_layer(finding):
    """Returns whether the op runs in a layer."""
    return finding.layer is not None


def is_half(finding):
    """Returns whether float16 numbers go into the op."""
    return "float16" in finding.input_dtypes


def is_started(finding):
    """Returns whether the training ran well before it came to this."""
    return finding.from_start is False


def first_value(finding):
    """Returns the number that went into the op, `None` if it is not known."""
    value = finding.evidence.get("value")
    return value[0] if isinstance(value, (list, tuple)) else value


def op(*types):
    """Makes the condition that the op is of one of some types.

    Args:
        *types: Op types.
    """
    return lambda finding: finding.op in types


def after(*types):
    """Makes the condition that what goes into the op comes from another.

    Args:
        *types: Op types, one of which makes an input of the op.
    """
    return lambda finding: not set(types).isdisjoint(finding.input_ops)


def before(*types):
    """Makes the condition that an op stands between this one and the loss.

    Args:
        *types: Op types, one of which gets what the op makes.
    """
    return lambda finding: (
        not set(types).isdisjoint((*finding.chain[1:], *finding.path[:-1]))
    )


def calls(*names):
    """Makes the condition that the line calls a library function.

    Args:
        *names: Names of functions.
    """
    return lambda finding: not set(names).isdisjoint(finding.calls)


def line(pattern):
    """Makes the condition that the user's line has some text.

    Args:
        pattern: A regular expression.
    """
    return lambda finding: bool(re.search(pattern, finding.place.source))


def lines(pattern):
    """Makes the condition that the lines around have some text.

    Args:
        pattern: A regular expression.
    """
    return lambda finding: bool(
        re.search(pattern, "\n".join(finding.place.snippet))
    )


def call(pattern):
    """Makes the condition that the call on the line has some text.

    Args:
        pattern: A regular expression; the call may go on for several lines.
    """
    return lambda finding: bool(re.search(pattern, finding.call))


def evidence(key, holds):
    """Makes the condition that a figure of the evidence is known, and fits.

    Args:
        key: Its key.
        holds: Takes the figure and returns a bool.
    """

    def fits(finding):
        value = finding.evidence.get(key)
        return value is not None and holds(value)

    return fits


def optimizer(*names):
    """Makes the condition that the optimizer is one of some.

    Args:
        *names: Names of classes.
    """
    return lambda finding: finding.optimizer in names


def both(*conditions):
    """Makes the condition that several hold.

    Args:
        *conditions: Conditions.
    """
    return lambda finding: all(holds(finding) for holds in conditions)


def either(*conditions):
    """Makes the condition that one of several holds.

    Args:
        *conditions: Conditions.
    """
    return lambda finding: any(holds(finding) for holds in conditions)


def no(condition):
    """Makes the condition that another one does not hold.

    Args:
        condition: A condition.
    """
    return lambda finding: not condition(finding)
