"""GG118: a value carried through a variable or a metric."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG118",
    name="variable-state",
    kind="disconnected",
    matches=lambda finding: finding.cause == "state",
    message="the value is written to a variable and read back",
    why=(
        "A variable or a metric stores the value and forgets where it came "
        "from: the gradient ends at the variable."
    ),
    help=(
        Remedy(
            text="store the value for display, return the tensor itself",
            before="AVERAGE.assign(error)\nreturn AVERAGE.value()",
            after="AVERAGE.assign(error)\nreturn error",
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
