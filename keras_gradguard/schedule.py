"""At which steps of a training a record is due."""

import inspect

_EXPECTED = (
    "Expected an integer of at least 1, the number of steps between two "
    "written records, or a function of the step (counted from 0) that returns "
    "True where a record is due, such as "
    "`every=lambda step: step < 10 or step % 100 == 0`"
)


class Schedule:
    """Says of each step whether it is to be recorded.

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
            raise ValueError(
                f"`every` is no number of steps. {_EXPECTED}. "
                f"Received: every={every!r}"
            )
        self._every = every

    def is_due(self, step):
        """Returns whether a step is to be recorded; asks a function once.

        Args:
            step: Number of the step, from 0.

        Raises:
            ValueError: If the function fails, or returns no truth value.
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
                f"The function given as `every` returned {answer!r} for step "
                f"{step}, which is neither True nor False{_hint(answer)}. "
                f"{_EXPECTED}. Received: every={self._every!r}"
            )
        return bool(answer)


def checked_every(every):
    """Returns the steps between two records, or raises ValueError.

    Args:
        every: What was given for it.
    """
    if not _is_count(every):
        raise ValueError(
            "`every` must be an integer of at least 1, the number of "
            f"steps between two written records. Received: every={every!r}"
        )
    return every


def thinning(step):
    """A ready-made schedule for long trainings: `every=thinning`.

    Each of the first 100 steps, then each tenth up to 1,000, each hundredth
    up to 10,000 and so on: 460 records in a million steps.

    Args:
        step: Number of the step, from 0.

    Returns:
        Whether the step is to be recorded.
    """
    return step % 10 ** max(0, len(str(step)) - 2) == 0


def _is_count(every):
    """Whether it is a number of steps; `True` is none."""
    is_number = isinstance(every, int) and not isinstance(every, bool)
    return is_number and every >= 1


def _check_arguments(function):
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some builtins tell nothing; the first call will.
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
    """Whether it is a bool, Python's or one of an array library."""
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
