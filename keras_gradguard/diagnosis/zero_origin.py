"""Step 4: where zeros begin that a layer gets for its input."""

import dataclasses

import numpy as np

from keras_gradguard.diagnosis.values import array
from keras_gradguard.diagnosis.zero_causes import PRODUCTS, cause_of, is_weight


def origin_of(stop, handles, lineage):
    """Returns the `Stop` at which the zeros of a zero input begin.

    A dead layer gives zeros to the next one, whose ReLU is then at its flat
    end too: what stops the gradient first is not what is to be mended.

    Args:
        stop: A `Stop` whose cause is a zero input.
        handles: Handles of the variables that get no more than zeros.
        lineage: The `Lineage` of the step.

    Returns:
        A `Stop` of the op that makes zeros out of what is not zero and hangs
        on one of the variables; else one of the first layer that gets zeros.
    """
    known = set(map(id, handles))

    def hangs_on_them(tensor):
        return any(
            id(source) in known
            for op in lineage.ancestors([tensor])
            for source in op.inputs
        )

    first, op = stop, stop.op
    while op is not None:
        zeros = [t for t in op.inputs if _is_all_zero(t)]
        inputs = [t for t in zeros if not is_weight(t, lineage)]
        if op.type in PRODUCTS and inputs:
            first = _at(stop, op, inputs[0])
        learned = [t for t in inputs if hangs_on_them(t)]
        if learned:
            op = lineage.recording.maker(learned[0])
            continue
        others = [t for t in op.inputs if array(t) is not None]
        alive = [t for t in others if all(t is not zero for zero in zeros)]
        held = [t for t in alive if hangs_on_them(t)]
        tensors = held or alive
        if op is not stop.op and tensors:
            begin = _at(stop, op, tensors[0])
            if cause_of(begin, lineage) not in (None, "unexplained_zero"):
                return begin
        break
    return first


def _is_all_zero(tensor):
    values = array(tensor)
    return values is not None and values.size > 0 and not np.any(values)


def _at(stop, op, tensor):
    return dataclasses.replace(
        stop, op=op, tensor=tensor, incoming=(), cancels=False, num_uses=1
    )
