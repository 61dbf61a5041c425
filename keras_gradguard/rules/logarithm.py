"""GG223: the logarithm of zero or of less."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import (
    after,
    both,
    first_value,
    is_half,
    lines,
    no,
    op,
)


def _is_negative(finding):
    value = first_value(finding)
    return value is not None and value < 0


_is_plain = both(no(_is_negative), no(after("Softmax", "Sigmoid", "RealDiv")))


_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    share = tf.nn.softmax(y_pred)
    gain = y_true * tf.math.log(y_true / share)  # [logarithm]
    return tf.reduce_mean(tf.reduce_sum(gain, axis=-1))
"""

RULE = Rule(
    code="GG223",
    name="logarithm",
    kind="nonfinite",
    ops=("Log", "Log1p", "Xlogy", "Xlog1py"),
    message="`{op}` of zero or of a negative number",
    why=(
        "The logarithm of 0 is -Inf and that of a negative number is NaN; the "
        "derivative 1/x is infinite at 0 as well."
    ),
    help=(
        Remedy(
            text="use log_softmax, which cannot underflow",
            before="score = ops.log(ops.softmax(y_pred))",
            after="score = ops.log_softmax(y_pred)",
            when=both(op("Log"), after("Softmax")),
        ),
        Remedy(
            text="use log_sigmoid, which cannot underflow",
            before="score = ops.log(ops.sigmoid(y_pred))",
            after="score = ops.log_sigmoid(y_pred)",
            when=both(op("Log"), after("Sigmoid")),
        ),
        Remedy(
            text="subtract logarithms instead of dividing",
            before=(
                "share = ops.softmax(y_pred)\n"
                "gain = y_true * ops.log(y_true / share)"
            ),
            after=(
                "known = ops.log(ops.maximum(y_true, 1e-7))\n"
                "gain = y_true * (known - ops.log_softmax(y_pred))"
            ),
            when=both(op("Log"), after("RealDiv"), lines(r"softmax\(")),
        ),
        Remedy(
            text="add a small number to both sides of the quotient",
            before="share = ops.log(part / total)",
            after="share = ops.log((part + 1e-7) / (total + 1e-7))",
            when=both(
                op("Log"),
                after("RealDiv"),
                no(lines(r"softmax\(")),
                no(is_half),
                no(_is_negative),
            ),
        ),
        Remedy(
            text="make the argument positive with softplus",
            before="score = ops.log(sigma)",
            after="score = ops.log(ops.softplus(sigma) + 1e-3)",
            when=both(op("Log"), _is_negative),
        ),
        Remedy(
            text="set a lower bound in float32 (the gradient is zero below)",
            before="score = ops.log(share)",
            after=(
                'share = ops.cast(share, "float32")\n'
                "score = ops.log(ops.maximum(share, 1e-7))"
            ),
            when=both(op("Log"), is_half, _is_plain),
        ),
        Remedy(
            text="set a lower bound (the gradient is zero below it)",
            before="score = ops.log(share)",
            after="score = ops.log(ops.maximum(share, 1e-7))",
            when=both(op("Log"), no(is_half), _is_plain),
        ),
        Remedy(
            text="keep the argument above -1",
            before="score = ops.log1p(gap)",
            after="score = ops.log1p(ops.maximum(gap, -0.99))",
            when=op("Log1p"),
        ),
        Remedy(
            text="set a lower bound (the gradient is zero below it)",
            before="gain = tf.math.xlogy(y_true, share)",
            after="gain = tf.math.xlogy(y_true, ops.maximum(share, 1e-7))",
            when=op("Xlogy"),
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    known = tf.math.log(tf.maximum(y_true, 1e-7))
    gain = y_true * (known - tf.nn.log_softmax(y_pred))
    return tf.reduce_mean(tf.reduce_sum(gain, axis=-1))
""",
)
