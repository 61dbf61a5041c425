"""GG115: a discrete random draw."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import op

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
    message="a discrete random draw has no gradient",
    why=(
        "The input sets only the probability of each result; the result itself "
        "is not a differentiable function of the input. A normal draw, `mean + "
        "sigma * noise` (reparameterization), does have a gradient."
    ),
    help=(
        Remedy(
            text="sample a soft one-hot vector (Gumbel-softmax)",
            before=(
                "drawn = ops.one_hot("
                "keras.random.categorical(y_pred, 1)[:, 0], 3)"
            ),
            after=(
                "uniform = keras.random.uniform(ops.shape(y_pred), 1e-6, 1.0)\n"
                "noise = ops.cast(-ops.log(-ops.log(uniform)), y_pred.dtype)\n"
                "drawn = ops.softmax(y_pred + noise)"
            ),
            when=op("Multinomial", "StatelessMultinomial"),
        ),
        Remedy(
            text="use the expected value, which has a gradient",
            before="drawn = keras.random.binomial(shape, counts, share)",
            after="drawn = counts * share",
            when=op("StatelessRandomBinomial", "StatefulRandomBinomial"),
        ),
        Remedy(
            text="shuffle the row indices, then gather the rows",
            before="mixed = tf.random.shuffle(y_pred)",
            after=(
                "rows = tf.random.shuffle(ops.arange(ops.shape(y_pred)[0]))\n"
                "mixed = ops.take(y_pred, rows, axis=0)"
            ),
            when=op("RandomShuffle"),
        ),
        Remedy(
            text="use the expected value, which has a gradient",
            before=(
                "drawn = tf.random.stateless_poisson(\n"
                "    shape, seed, rate, rate.dtype\n"
                ")"
            ),
            after="drawn = rate",
            when=op("StatelessRandomPoisson", "RandomPoisson"),
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
    uniform = tf.random.uniform(tf.shape(y_pred), 1e-6, 1.0)
    noise = tf.cast(-tf.math.log(-tf.math.log(uniform)), y_pred.dtype)
    drawn = tf.nn.softmax(y_pred + noise)
    return tf.reduce_mean(tf.square(y_true - drawn))
""",
)
