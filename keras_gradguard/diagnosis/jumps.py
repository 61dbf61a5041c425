"""Step 4: losses that jump where a condition on the prediction flips.

The height is measured: the loss is run a little to each side of the flip,
at three distances. A jump stays as it is, everything else shrinks.
"""

import collections
import itertools

import numpy as np

from keras_gradguard.diagnosis import eager_internals, source
from keras_gradguard.diagnosis.conditions import is_condition, keys_of
from keras_gradguard.diagnosis.edges import Context
from keras_gradguard.diagnosis.heights import depends, measured
from keras_gradguard.diagnosis.lossrun import LossFailed, LossRun, NotAFunction
from keras_gradguard.diagnosis.switches import Ways
from keras_gradguard.finding import Finding

# A switch may fail to be measured: the loss is NaN there, say.
_MOST_SWITCHES = 8
_MOST_MEASURED = 4
# A line in a loop runs often; its first runs speak for the others.
_MOST_RUNS_OF_A_LINE = 3
# How many ops all the runs may take; a loss of ten ops takes a second or two.
_MOST_OPS = 100_000


def may_jump(graph):
    """Returns whether a traced step holds a condition on a user's line.

    Args:
        graph: A `FuncGraph`; bodies of functions and branches are entered.
    """
    for context in Context(graph).everything():
        for op in context.graph.get_operations():
            if is_condition(op.inputs, op.outputs):
                if source.op_place(op).line is not None:
                    return True
    return False


def jump_findings(loss, y_true, y_pred, name=None, with_python=True):
    """Finds the conditions at which a loss jumps.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets on this batch: eager tensors, or a nest of them.
        y_pred: Its predictions on this batch, alike.
        name: Name of the loss for the findings.
        with_python: Whether a Python `if` on numbers may choose as well:
            not where the loss is compiled.

    Returns:
        A list of `Finding`s; empty where nothing jumps, or where the values
        are not a function of the prediction alone.
    """
    try:
        subject = LossRun(loss, y_true, y_pred)
    except (LossFailed, NotAFunction):
        return []
    if subject.has_prints:
        # Nobody wants to read it a hundred times.
        return []
    return jumps_of(subject, name or loss.name, with_python)


def jumps_of(subject, name, with_python=True):
    """Finds the conditions at which a loss jumps.

    Args:
        subject: A `LossRun`.
        name: Name of the loss for the findings.
        with_python: See `jump_findings`.
    """
    conditions = _conditions(subject)
    if all(gradient is None for gradient in subject.gradients):
        return []
    has_python = with_python and bool(
        subject.run(subject.start, with_path=True).path
    )
    if not (conditions or has_python):
        return []
    ways = Ways(subject, with_path=has_python)
    findings, points, asked = [], [], collections.Counter()
    for op, key in conditions.items():
        line = key[:2]
        if asked[line] == _MOST_RUNS_OF_A_LINE:
            continue
        asked[line] += 1
        found = _jump_at(subject, ways, key)
        if found is None:
            continue
        asked[line] = _MOST_RUNS_OF_A_LINE
        if _is_known(found.switch.point, points):
            continue
        points.append(found.switch.point)
        place = source.op_place(op)
        first = subject.base.bools[key]
        known = {"true_share": float(np.mean(first))} if first.size > 1 else {}
        findings.append(_finding(place, op.type, name, found.height, known))
    return findings + (_python_jumps(ways, name) if has_python else [])


def _conditions(subject):
    """The conditions that may choose between formulas, with their keys.

    What a user has put behind `stop_gradient`, a hand-written gradient or a
    stopped tape is meant to have no gradient.
    """
    recording = subject.recording
    open_ids = {id(tensor) for tensor in subject.tensors}
    for op in recording.ops:
        if op.type != "StopGradient" and not is_hidden(op):
            if any(id(tensor) in open_ids for tensor in op.inputs):
                open_ids |= {id(tensor) for tensor in op.outputs}
    return {
        op: key
        for op, key in keys_of(recording).items()
        if op.type != "StopGradient"
        and any(id(tensor) in open_ids for tensor in op.inputs)
        and not is_hidden(op)
        and not _is_stopped(subject, op)
    }


def is_hidden(op):
    """Returns whether the tape sees nothing of a recorded op.

    Args:
        op: A `RanOp`; inside a hand-written gradient the tape sees only
            that.
    """
    inside = eager_internals.CUSTOM_GRADIENT
    return not op.is_taped or any(
        (frame.filename, frame.name) == (inside.co_filename, inside.co_name)
        for frame in op.traceback
    )


def _is_stopped(subject, condition):
    """Whether a condition leads to the value only behind `stop_gradient`."""
    reached = {id(tensor) for tensor in condition.outputs}
    is_stopped = False
    for op in subject.recording.ops[condition.number + 1 :]:
        if any(id(tensor) in reached for tensor in op.inputs):
            if op.type == "StopGradient":
                is_stopped = True
            else:
                reached |= {id(tensor) for tensor in op.outputs}
    return is_stopped and id(subject.value) not in reached


def _jump_at(subject, ways, key):
    """Returns the `_Jump` that one condition makes, or `None`."""
    num_measured = 0
    switches = ways.switches(lambda run: run.bools.get(key))
    for switch in itertools.islice(switches, _MOST_SWITCHES):
        jump = measured(ways, switch)
        if jump is None:
            continue
        if jump.height and depends(subject, jump, key):
            return jump
        num_measured += 1
        num_ops = ways.num_runs * len(subject.recording.ops)
        if num_measured == _MOST_MEASURED or num_ops > _MOST_OPS:
            break
    return None


def _python_jumps(ways, name):
    """Jumps at a Python `if` on numbers that have left TensorFlow."""
    first = ways.first.path
    switches = ways.switches(lambda run: np.asarray(run.path != first))
    for switch in itertools.islice(switches, _MOST_MEASURED):
        jump = measured(ways, switch)
        if jump is None or not jump.height:
            continue
        there, here = jump.runs
        if any(
            (here.bools[k] != v).any()
            for k, v in there.bools.items()
            if k in here.bools and here.bools[k].shape == v.shape
        ):
            continue
        pairs = zip(there.path, here.path, strict=False)
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        *_, (last, _) = same
        code, _, line = last
        place = source.place(code.co_filename, line, code.co_name)
        return [_finding(place, None, name, jump.height, {})]
    return []


def _is_known(point, points):
    """Whether another condition flips at the same prediction."""
    return any(
        all(
            np.allclose(part, other, rtol=1e-6, atol=1e-6)
            for part, other in zip(point, known, strict=True)
        )
        for known in points
    )


def _finding(place, op, name, height, evidence):
    return Finding(
        kind="discontinuous",
        place=place,
        op=op,
        loss=name,
        cause="jump",
        evidence={"jump": height, **evidence},
    )
