"""Exceptions and warnings; this module needs no TensorFlow."""

import os
import sys
import traceback
import warnings

ACTIONS = ("warn", "raise", "stop")
_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_LIBRARIES = ("site-packages", "dist-packages")


class GradientBreakError(ValueError):
    """A gradient is broken; the message is the rendered diagnosis.

    Args:
        report: The `Report` with the diagnoses.
        cause: Text of the exception that this one replaces, if any.
    """

    # AutoGraph rebuilds exceptions that it does not know, unless told so.
    ag_pass_through = True

    def __init__(self, report, cause=None):
        self.report = report
        self._cause = cause
        text = "\n\n".join(str(item) for item in report.diagnoses)
        if cause:
            text += f"\n\nKeras says: {cause}"
        super().__init__(f"\n{text}")

    def __reduce__(self):
        return (type(self), (self.report, self._cause))


class LoopStopped(Exception):
    """Leaves the block of `watch`, which catches it."""

    ag_pass_through = True


class GradientBreakWarning(UserWarning):
    """A gradient is broken, and training continues."""

    # A warnings filter of the user may raise it.
    ag_pass_through = True


class GuardFaultWarning(UserWarning):
    """keras_gradguard itself failed and stopped checking (GG900)."""


class UnsupportedBackendError(RuntimeError):
    """Gradients cannot be checked on the current Keras backend."""


class UnsupportedBackendWarning(UserWarning):
    """Training continues on a backend without gradient checks."""


FINDINGS = (GradientBreakError, GradientBreakWarning, LoopStopped)


def warn_of(diagnosis):
    """Warns of a diagnosis, at the user's own line.

    Args:
        diagnosis: A `Diagnosis`; one without a line is warned of where the
            user's code has called Keras.
    """
    file, line = diagnosis.file, diagnosis.line
    if file is None or line is None:
        file, line = _users_line()
    warnings.warn_explicit(
        f"\n{diagnosis}\n", GradientBreakWarning, filename=file, lineno=line
    )


def _users_line():
    """`(file, line)` of the innermost frame outside libraries."""
    frame = sys._getframe(1)
    last = frame
    while frame is not None:
        file = frame.f_code.co_filename
        is_ours = file.startswith(_PACKAGE + os.sep)
        is_library = any(folder in file for folder in _LIBRARIES)
        if not (is_ours or is_library or file.startswith("<")):
            break
        last, frame = frame, frame.f_back
    frame = frame or last
    return frame.f_code.co_filename, frame.f_lineno


def checked_action(name, value, actions=ACTIONS):
    """Returns an action, or raises ValueError that says what is expected.

    Args:
        name: Name of the argument.
        value: What was given for it.
        actions: What may be given.
    """
    if value not in actions:
        expected = ", ".join(f'"{action}"' for action in actions)
        raise ValueError(
            f"`{name}` must be one of {expected}. Received: {name}={value!r}"
        )
    return value


def checked_flag(name, value):
    """Returns a Boolean, or raises TypeError that says what is expected.

    Args:
        name: Name of the argument.
        value: What was given for it.
    """
    if not isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be True or False. Received: {name}={value!r}"
        )
    return value


def checked_folder(value):
    """Returns a `log_dir`, or raises TypeError that says what is expected.

    Args:
        value: What was given for it: a path, or `None`.
    """
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            "`log_dir` must be a path or None. Received: "
            f"log_dir={value!r} (of type {type(value).__name__})"
        )
    return value


STRICT = "KERAS_GRADGUARD_STRICT"
_SWITCHED_OFF = "has switched itself off; training continues"
_MOST_LETTERS = 300


class FaultBarrier:
    """Runs the guard's own code; a fault of it never reaches training.

    The first fault is warned of once and closes the barrier; those that follow
    from it are not reported. With the environment variable
    `KERAS_GRADGUARD_STRICT=1` faults are raised instead: the tests run like
    that.

    Args:
        note_fault: Called with the place and the words of the first fault.
        effect: What follows from a fault, a verb and its object.

    Attributes:
        is_open: Whether there was no fault so far.
    """

    def __init__(self, note_fault=None, effect=_SWITCHED_OFF):
        self.is_open = True
        self._effect = effect
        self._note_fault = note_fault

    def guarded(self):
        """Catches faults of the code in the block, but not findings."""
        return self

    def call(self, function, *arguments):
        """Calls a function of the guard, and catches its faults.

        Args:
            function: The function; what it returns is dropped.
            *arguments: Its arguments.
        """
        with self:
            function(*arguments)

    def around(self, *managers):
        """Returns a context manager that enters and leaves others.

        A fault in entering or in leaving one is caught, and those behind
        one that cannot be entered are left out; what the block raises
        passes.

        Args:
            *managers: Context managers, the outermost first.
        """
        return _Around(self, managers)

    def wrapped(self, wrapper, original, *arguments):
        """Calls a function of the user's inside of a wrapper of the guard.

        A fault of the wrapper costs what it adds, never the call, which is
        made once: in the wrapper, or else after the fault.

        Args:
            wrapper: Called as `wrapper(call, *arguments)`; it may make the
                call or leave it out.
            original: The function.
            *arguments: Its arguments.

        Returns:
            What the wrapper returns; after a fault, what the function does.
        """
        call = _Call(original)
        try:
            return wrapper(call, *arguments)
        except Exception as error:
            if error is call.error:
                raise
            with self:
                raise
        if call.error is not None:
            raise call.error
        return call.value if call.is_done else original(*arguments)

    def __enter__(self):
        """Opens the block."""

    def __exit__(self, kind, fault, trace):
        """Reports a fault and keeps it from the training."""
        if kind is None or not issubclass(kind, Exception):
            return False
        if issubclass(kind, FINDINGS) or os.environ.get(STRICT) == "1":
            return False
        if self.is_open:
            self.is_open = False
            reason = place_and_words(fault)
            try:
                if self._note_fault is not None:
                    self._note_fault(reason)
            except Exception:  # noqa: BLE001
                # What follows from a fault is not told: the fault itself is.
                reason += " (the report does not tell)"
            _warn(self._effect, reason)
        return True


def fault_sentence(when, reason):
    """Returns the sentence for `Report.not_checked` after a fault.

    Args:
        when: When it happened, e.g. `"after 3 steps"`.
        reason: What `FaultBarrier` gives `note_fault`.
    """
    return (
        f"keras_gradguard itself failed {when} and has checked nothing since "
        f"then (GG900, {reason})."
    )


class _Call:
    """A function, and how far its call has come."""

    def __init__(self, original):
        self._original = original
        self.error = self.value = None
        self.is_done = False

    def __call__(self, *arguments):
        try:
            self.value = self._original(*arguments)
        except BaseException as error:
            self.error = error
            raise
        self.is_done = True
        return self.value


class _Around:
    """See `FaultBarrier.around`; around each step, so it is no generator."""

    def __init__(self, barrier, managers):
        self._barrier = barrier
        self._managers = managers
        self._entered = []

    def __enter__(self):
        entered = []
        self._entered.append(entered)
        try:
            with self._barrier:
                for manager in self._managers:
                    manager.__enter__()
                    entered.append(manager)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, *raised):
        entered = self._entered.pop()
        # A fault in leaving one must not keep the others from it.
        while entered:
            with self._barrier:
                while entered:
                    entered.pop().__exit__(*raised)


def place_and_words(error):
    """Returns where an exception was raised and what it says, on one line.

    Args:
        error: The exception, as it was caught.
    """
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    file = os.path.basename(frame.f_code.co_filename)
    try:
        text = " ".join(str(error).split())
    except Exception as other:  # noqa: BLE001
        # An exception of the user's may fail to say what it is.
        text = f"its text raises {type(other).__name__}"
    if len(text) > _MOST_LETTERS:
        text = text[:_MOST_LETTERS] + "..."
    return f"{file}:{line}: {type(error).__name__}: {text}".removesuffix(": ")


def patch_barrier():
    """Returns the barrier of the search for patches: a finding outlives it."""
    effect = "shows no more checked patches; training continues"
    return FaultBarrier(effect=effect)


def check_barrier(reasons):
    """Returns the barrier of a check outside of a training.

    Args:
        reasons: A list, which gets the sentence for `Report.not_checked`.
    """
    return FaultBarrier(
        lambda reason: reasons.append(fault_sentence("in this check", reason)),
        effect="did not finish this check",
    )


def fault_words(error):
    """Returns what to say of a fault where nothing is trained.

    Args:
        error: The exception, as it was caught.
    """
    reason = place_and_words(error)
    return f"error[GG900] guard-fault: keras_gradguard itself failed. {reason}"


def warn(text, category=UserWarning):
    """Warns of what must not end a training, whatever filters there are.

    Args:
        text: The warning.
        category: Its class.
    """
    try:
        warnings.warn(text, category, stacklevel=3)
    except category:
        # A filter makes errors of warnings, which is meant for findings.
        print(text, file=sys.stderr)


def _warn(effect, reason):
    text = (
        "warning[GG900] guard-fault: keras_gradguard itself failed and "
        f"{effect}. {reason}"
    )
    warn(text, GuardFaultWarning)
