"""GG210: a proved zero for which no other rule has words."""

from keras_gradguard.rules._rule import Remedy, Rule

_BAD = """\
import tensorflow as tf


@tf.custom_gradient
def bounded(scores):
    def gradient(upstream):
        return tf.zeros_like(upstream)

    return tf.identity(scores), gradient


def loss(y_true, y_pred):
    scores = bounded(y_pred)  # [unexplained-zero]
    return tf.reduce_mean(tf.square(y_true - scores))


EPOCHS = 8
"""

RULE = Rule(
    code="GG210",
    name="unexplained-zero",
    kind="zero",
    matches=lambda finding: True,
    message="the gradient becomes zero, why is not known",
    why=(
        "No rule of the catalogue knows what happens here. The line, the op "
        "and the path are what the figures of the step show."
    ),
    help=(
        Remedy(
            text="keep the value, and pass the gradient straight by the op",
            before="value = op(scores)",
            after="value = scores + tf.stop_gradient(op(scores) - scores)",
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [unexplained-zero]", "").replace(
        "tf.zeros_like(upstream)", "tf.clip_by_value(upstream, -1.0, 1.0)"
    ),
)
