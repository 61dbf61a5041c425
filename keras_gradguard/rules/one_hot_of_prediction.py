"""GG112: a prediction used as the class index of a one-hot vector."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import in_loss


def _matches(finding):
    # The index has to be an integer, so the cut shows as the cast before, or
    # as the rounding before the cast.
    return finding.op in RULE.ops and "OneHot" in finding.chain[:3]


RULE = Rule(
    code="GG112",
    name="one-hot-of-prediction",
    kind="disconnected",
    ops=("Cast", "OneHot", "Round", "Rint", "Floor", "Ceil"),
    matches=_matches,
    message="`one_hot` of a prediction has no gradient",
    why=(
        "`one_hot` takes class indices, and the zeros and ones that it returns "
        "do not change with a small change of the prediction."
    ),
    help=(
        Remedy(
            text="predict one score per class and use the softmax",
            before='label = ops.one_hot(ops.cast(y_pred[:, 0], "int32"), 3)',
            after="label = ops.softmax(y_pred)",
            when=in_loss,
        ),
        Remedy(
            text="weight the classes by their distance to the value",
            before='label = ops.one_hot(ops.cast(level, "int32"), 3)',
            after=(
                "classes = ops.cast(ops.arange(3), level.dtype)\n"
                "label = ops.softmax(-ops.square(level[..., None] - classes))"
            ),
        ),
    ),
    bad="""\
import keras
import tensorflow as tf


def loss(y_true, y_pred):
    label = keras.ops.one_hot(y_pred[:, 0], 3)  # [one-hot-of-prediction]
    return tf.reduce_mean(tf.square(y_true - label))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    label = tf.nn.softmax(y_pred)
    return tf.reduce_mean(tf.square(y_true - label))
""",
)
