"""GG118: a value carried through a variable or a metric."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, calls, no, op

_is_slice = op(
    "ResourceStridedSliceAssign",
    "ResourceScatterUpdate",
    "ResourceScatterNdUpdate",
)


RULE = Rule(
    code="GG118",
    name="variable-state",
    kind="disconnected",
    matches=lambda finding: finding.cause == "state",
    message="the value is stored in a variable and read back",
    why=(
        "Assigning to a variable or updating a metric stores only the numbers, "
        "so the gradient ends at the variable."
    ),
    help=(
        Remedy(
            text="return the tensor itself; use the metric for display only",
            before=("MEAN.update_state(error)\nreturn MEAN.result()"),
            after="MEAN.update_state(error)\nreturn error",
            when=calls("update_state"),
        ),
        Remedy(
            text="build a new tensor instead of assigning to a slice",
            before="TABLE[:, 0].assign(y_pred[:, 0])\ntable = TABLE",
            after=(
                "parts = [y_pred[:, :1], TABLE[:, 1:]]\n"
                "table = ops.concatenate(parts, axis=-1)"
            ),
            when=_is_slice,
        ),
        Remedy(
            text="return the tensor itself; store it for display only",
            before="AVERAGE.assign(error)\nreturn AVERAGE.value()",
            after="AVERAGE.assign(error)\nreturn error",
            when=both(no(calls("update_state")), no(_is_slice)),
        ),
    ),
    bad="""\
import tensorflow as tf

AVERAGE = tf.Variable(0.0, trainable=False)


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    AVERAGE.assign(0.9 * AVERAGE + 0.1 * error)  # [variable-state]
    return AVERAGE.value()
""",
    good="""\
import tensorflow as tf

AVERAGE = tf.Variable(0.0, trainable=False)


def loss(y_true, y_pred):
    error = tf.reduce_mean(tf.square(y_true - y_pred))
    AVERAGE.assign(0.9 * AVERAGE + 0.1 * error)
    return error
""",
)
