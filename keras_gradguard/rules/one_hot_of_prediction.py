"""GG112: a prediction used as the class index of a one-hot vector."""

from keras_gradguard.rules._rule import Remedy, Rule


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
    message="a prediction is used as a class index",
    why=(
        "`tf.one_hot` takes whole numbers and gives zeros and ones; neither "
        "moves with a small change of the prediction."
    ),
    help=(
        Remedy(
            text="give the model one score for each class and use softmax",
            before="onehot = tf.one_hot(tf.cast(y_pred[:, 0], tf.int32), 3)",
            after="onehot = tf.nn.softmax(y_pred)",
        ),
        Remedy(
            text="one-hot the labels instead; they need no gradient",
            before="onehot = tf.one_hot(tf.cast(y_pred, tf.int32), 3)",
            after="onehot = tf.one_hot(tf.cast(y_true, tf.int32), 3)",
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
