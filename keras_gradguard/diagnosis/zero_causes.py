"""Step 4: why an op that gets a gradient passes only zeros on.

That it does is measured; here the values of the step tell which of the known
reasons it is, and which zeros are as they should be.
"""

import numpy as np
import tensorflow as tf

from keras_gradguard.diagnosis import keras_internals, source
from keras_gradguard.diagnosis.values import array

PRODUCTS = frozenset(
    (
        "MatMul",
        "BatchMatMul",
        "BatchMatMulV2",
        "Einsum",
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Conv2DBackpropInput",
        "Conv3DBackpropInputV2",
    )
)
# Their slope is never zero: zeros come out only where gradients cancel, as
# they do for a bias before a normalisation.
_SUMS = frozenset(
    ("Add", "AddV2", "AddN", "BiasAdd", "Sub", "Sum", "Mean", "Neg", "Cumsum")
)
_AT_THEIR_MINIMUM = frozenset(("Square", "SquaredDifference", "Abs", "L2Loss"))
_ENDS = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softmax": (0.0, 1.0)}
_SOFTMAX_LOSSES = (
    "SoftmaxCrossEntropyWithLogits",
    "SparseSoftmaxCrossEntropyWithLogits",
)
# Keras clips probabilities at 1e-7, so a perfect fit costs about as much.
_NOTHING_LOST = 1e-6
_CLIPS = ("ClipByValue", "Minimum", "Maximum", "Relu6")


def cause_of(stop, lineage):
    """Returns the cause word of a `Stop`, `None` if it is no fault.

    Args:
        stop: The `Stop`.
        lineage: The `Lineage` of the step.
    """
    op = stop.op
    if stop.cancels:
        # A shift of all scores may well cancel; a prediction may not.
        is_parameter = stop.tensor.dtype == tf.resource or is_weight(
            stop.tensor, lineage
        )
        return None if is_parameter else "constant_loss"
    if op.type in _SUMS:
        return None
    if op.type in _AT_THEIR_MINIMUM and not np.any(array(op.inputs[0])):
        return None
    others = [t for t in op.inputs if t is not stop.tensor]
    zeros = [t for t in others if array(t) is not None and not np.any(array(t))]
    if op.type in PRODUCTS:
        if not zeros:
            return None
        return "zero_weights" if is_weight(zeros[0], lineage) else "zero_input"
    if op.type in ("Mul", "MulNoNan"):
        return _of_product(op, zeros, lineage)
    return _of_slope(stop, lineage)


def _of_product(op, zeros, lineage):
    if not zeros:
        # Elements that are not zero, times a gradient that is zero there.
        return None
    if is_weight(zeros[0], lineage):
        return "zero_weights"
    is_constant = lineage.recording.maker(zeros[0]) is None
    if is_constant and keras_internals.is_in_compiled_loss(
        source.frames_of(op)
    ):
        if all(zeros[0] is not t for t in lineage.recording.trace.batch):
            return "loss_weight"
    return "zero_factor"


def _of_slope(stop, lineage):
    op, values = stop.op, array(stop.tensor)
    if op.type == "Sign":
        return "sign"
    if op.type in ("Softmax", "LogSoftmax", *_SOFTMAX_LOSSES):
        if values.shape[-1] == 1:
            return "one_unit_softmax"
    if op.type in _SOFTMAX_LOSSES:
        return "saturated_activation" if np.any(array(op.outputs[0])) else None
    if op.type in ("Softmax", "LogSoftmax"):
        spread = np.ptp(stop.incoming[0], axis=-1)
        at_end = np.isin(array(op.outputs[0]), (0, 1)).all()
        if not np.any(spread) and not at_end:
            return "constant_loss"
        return "saturated_activation"
    if op.type in ("Relu", "Relu6") and np.all(values <= 0):
        return "dead_relu" if np.any(values) else _of_zeros(stop, lineage)
    if op.type == "Maximum" and not any(
        np.any(array(t)) for t in op.inputs if t is not stop.tensor
    ):
        return "dead_relu"
    if op.type in _CLIPS:
        return "saturated_clip"
    if op.type in (*_ENDS, "Softsign", "Erf", "Selu", "Elu", "Softplus"):
        return "saturated_activation"
    return "unexplained_zero"


def _of_zeros(stop, lineage):
    """Why a value is zero throughout: zeros went into the layer."""
    op = lineage.recording.maker(stop.tensor)
    while op is not None and op.type in ("BiasAdd", "Add", "AddV2", "Reshape"):
        op = lineage.recording.maker(op.inputs[0])
    if op is None or op.type not in PRODUCTS:
        return "dead_relu"
    for tensor in op.inputs:
        if array(tensor) is not None and not np.any(array(tensor)):
            is_own = is_weight(tensor, lineage)
            return "zero_weights" if is_own else "zero_input"
    return "dead_relu"


def is_weight(tensor, lineage):
    """Whether a tensor is a variable's value, perhaps cast or reshaped."""
    op = lineage.recording.maker(tensor)
    while op is not None:
        if op.type in ("ReadVariableOp", "ResourceGather"):
            return True
        if op.type not in ("Cast", "Identity", "Reshape", "Transpose"):
            return False
        op = lineage.recording.maker(op.inputs[0])
    return False


def is_satisfied(stop, cause, lineage, noise=0.0):
    """Returns whether the loss would not gain by a slope: all is well.

    A value that is held at a bound and that the loss wants beyond this bound
    is as good as it can be, if nothing is lost by it any more: a hinge whose
    margin is kept, a probability that is right and 1.

    Args:
        stop: The `Stop`.
        cause: Its cause word.
        lineage: The `Lineage` of the step.
        noise: See `zeros.zero_findings`.
    """
    op = stop.op
    is_tail = bool(noise) and cause != "constant_loss"
    if is_tail or (stop.cancels and stop.num_uses > 2):
        # The terms of a cross-entropy of logits cancel once they are large.
        if lineage.largest_loss(op) <= _NOTHING_LOST:
            return True
    is_bound = cause in ("saturated_clip", "dead_relu", "unexplained_zero")
    if cause == "saturated_activation" and op.type in _ENDS:
        low, high = _ENDS[op.type]
        after = array(op.outputs[0])
        is_low, is_high = after == low, after == high
    elif is_bound and lineage.is_in_loss(op):
        before, after = array(stop.tensor), array(op.outputs[0])
        if before is None or after is None or before.shape != after.shape:
            return False
        is_low, is_high = after > before, after < before
    else:
        return False
    wish = stop.incoming[0]
    if wish is None or wish.shape != after.shape:
        return False
    if np.any(after) and lineage.largest_loss(op) > _NOTHING_LOST:
        return False
    return bool(np.all(wish[is_low] >= 0) and np.all(wish[is_high] <= 0))
