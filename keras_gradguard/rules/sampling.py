"""GG115: a random draw that the scores only steer."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG115",
    name="sampling",
    kind="disconnected",
    ops=(
        "Multinomial",
        "StatelessMultinomial",
        "RandomPoisson",
        "RandomPoissonV2",
        "StatelessRandomPoisson",
        "StatelessRandomBinomial",
        "StatefulRandomBinomial",
        "RandomShuffle",
    ),
    message="a random draw passes no gradient",
    why=(
        "The scores decide how likely a result is, not what it is, so the "
        "result does not move with them."
    ),
    help=(
        Remedy(
            text="draw the noise apart from the scores (Gumbel softmax)",
            before="drawn = tf.random.categorical(y_pred, 1)",
            after=(
                "noise = tf.random.uniform(tf.shape(y_pred), 1e-6, 1.0)\n"
                "drawn = tf.nn.softmax(y_pred - tf.math.log("
                "-tf.math.log(noise)))"
            ),
        ),
        Remedy(
            text="to shuffle, shuffle the row numbers and gather",
            before="mixed = tf.random.shuffle(y_pred)",
            after=(
                "rows = tf.random.shuffle(tf.range(tf.shape(y_pred)[0]))\n"
                "mixed = tf.gather(y_pred, rows)"
            ),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    drawn = tf.random.categorical(y_pred, 1)  # [sampling]
    drawn = tf.one_hot(drawn[:, 0], 3)
    return tf.reduce_mean(tf.square(y_true - drawn))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    noise = tf.random.uniform(tf.shape(y_pred), 1e-6, 1.0)
    drawn = tf.nn.softmax(y_pred - tf.math.log(-tf.math.log(noise)))
    return tf.reduce_mean(tf.square(y_true - drawn))
""",
)
