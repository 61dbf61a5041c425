"""Decides at which steps of a training a record is written."""

import inspect

_EXPECTED = (
    "`every` must be a positive integer, the number of steps between two "
    "records, or a function of the step (counted from 0) that returns True "
    "when a record is due, such as "
    "`every=lambda step: step < 10 or step % 100 == 0`"
)


class Schedule:
    """Decides for each step whether to record it.

    Args:
        every: Number of steps between two records, or a function of the
            step, counted from 0, that returns whether a record is due.

    Raises:
        ValueError: If it is neither.
    """

    def __init__(self, every):
        if _is_count(every):
            self._function = None
        elif callable(every):
            _check_arguments(every)
            self._function = every
        else:
            raise ValueError(f"{_EXPECTED}. Received: every={every!r}")
        self._every = every

    def is_due(self, step):
        """Returns whether to record a step; calls a function once.

        Args:
            step: Number of the step, from 0.

        Raises:
            ValueError: If the function fails or does not return a Boolean.
        """
        if self._function is None:
            return step % self._every == 0
        try:
            answer = self._function(step)
        except Exception as error:
            raise ValueError(
                f"The function given as `every` failed at step {step} with "
                f"{type(error).__name__}: {error}. {_EXPECTED}. "
                f"Received: every={self._every!r}"
            ) from error
        if not _is_truth_value(answer):
            raise ValueError(
                f"The function given as `every` returned {answer!r} at step "
                f"{step}, which is neither True nor False{_hint(answer)}. "
                f"{_EXPECTED}. Received: every={self._every!r}"
            )
        return bool(answer)


def checked_every(every):
    """Returns the number of steps between two records.

    Args:
        every: The value to check.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if not _is_count(every):
        raise ValueError(
            "`every` must be a positive integer, the number of steps between "
            f"two records. Received: every={every!r}"
        )
    return every


def thinning(step):
    """A predefined schedule for long trainings: `every=thinning`.

    Records every one of the first 100 steps, then every tenth up to 1,000,
    every hundredth up to 10,000 and so on: 460 records in a million steps.

    Args:
        step: Number of the step, from 0.

    Returns:
        Whether to record the step.
    """
    return step % 10 ** max(0, len(str(step)) - 2) == 0


def _is_count(every):
    """Whether it is a positive integer; `True` is not."""
    is_number = isinstance(every, int) and not isinstance(every, bool)
    return is_number and every >= 1


def _check_arguments(function):
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some builtins have no signature; the first call decides.
        return
    try:
        signature.bind(0)
    except TypeError as error:
        raise ValueError(
            f"The function given as `every` cannot be called with one "
            f"argument, the step: {error}. {_EXPECTED}. "
            f"Received: every={function!r}"
        ) from error


def _is_truth_value(answer):
    """Whether it is a Boolean of Python or of an array library."""
    if isinstance(answer, bool):
        return True
    dtype = getattr(answer, "dtype", None)
    name = getattr(dtype, "name", None)
    return name == "bool" and tuple(getattr(answer, "shape", (1,))) == ()


def _hint(answer):
    if answer is None:
        return "; is a `return` missing"
    if isinstance(answer, (int, float)):
        return "; compare it, as in `step % 100 == 0`"
    return ""
