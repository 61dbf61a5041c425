"""Step 4: the conditions that a loss asks, known by the user's line."""

import contextlib
import os
import sys

import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis import source

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Conditions:
    """Reads, and if asked replaces, what conditions come to.

    Args:
        run: The `Run` to fill.
        forced: Key -> values to put in place of what comes out there.
    """

    def __init__(self, run, forced):
        self._run = run
        self._forced = forced
        self._counts = {}
        self._is_busy = False

    def see(self, op_type, inputs, attributes, outputs):
        """Takes in one op that has just run."""
        del attributes
        if self._is_busy or len(outputs) != 1:
            return
        kept = self._run.bools if is_condition(inputs, outputs) else None
        if op_type == "StopGradient":
            kept = self._run.stopped
        if kept is None:
            return
        where = _user_line()
        if where is None and kept is self._run.bools:
            return
        number = self._counts.get((where, op_type), 0)
        self._counts[where, op_type] = number + 1
        key = (where, op_type, number)
        kept[key] = outputs[0].numpy()
        if key in self._forced:
            self._is_busy = True
            instead = np.broadcast_to(self._forced[key], outputs[0].shape)
            # TensorFlow goes on with what it finds in this list.
            outputs[0] = tf.constant(instead, outputs[0].dtype)
            self._is_busy = False


def is_condition(inputs, outputs):
    """Returns whether an op makes truth values of numbers.

    Args:
        inputs: Tensors that went in.
        outputs: Tensors that came out.
    """
    return (
        len(outputs) == 1
        and outputs[0].dtype == tf.bool
        and len(inputs) > 0
        and all(tensor.dtype != tf.bool for tensor in inputs)
    )


def keys_of(recording):
    """Maps each condition and `StopGradient` to what it is known by.

    Args:
        recording: A `Recording` of the same loss.
    """
    counts, keys = {}, {}
    for op in recording.ops:
        if op.type != "StopGradient" and not is_condition(
            op.inputs, op.outputs
        ):
            continue
        place = source.op_place(op)
        where = None if place.line is None else (place.file, place.line)
        if where is None and op.type != "StopGradient":
            continue
        number = counts.get((where, op.type), 0)
        counts[where, op.type] = number + 1
        keys[op] = (where, op.type, number)
    return keys


def _user_line():
    """The innermost `(file, line)` of the user's on the stack, or `None`."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return None
        if source.is_users(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


@contextlib.contextmanager
def followed(path):
    """Writes down each step of the user's Python code.

    Args:
        path: A list to append `(code, instruction, line)`s to.
    """

    def step(frame, event, _):
        if event == "opcode":
            path.append((frame.f_code, frame.f_lasti, frame.f_lineno))
        return step

    def enter(frame, event, _):
        if event != "call" or not source.is_users(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
