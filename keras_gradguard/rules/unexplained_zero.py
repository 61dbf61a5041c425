"""GG210: a proved zero that no other rule explains."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import no

_BAD = """\
import tensorflow as tf


@tf.custom_gradient
def bounded(scores):
    def gradient(upstream):
        return tf.zeros_like(upstream)  # [unexplained-zero]

    return tf.identity(scores), gradient


def loss(y_true, y_pred):
    scores = bounded(y_pred)
    return tf.reduce_mean(tf.square(y_true - scores))


EPOCHS = 8
"""


def _is_own(finding):
    # A function of the user's with a custom gradient, not an op of TensorFlow.
    is_named = finding.op is not None and not finding.op[0].isupper()
    return is_named or finding.cause == "zero_custom_gradient"


RULE = Rule(
    code="GG210",
    name="unexplained-zero",
    kind="zero",
    matches=lambda finding: True,
    message="the gradient becomes zero for an unknown reason",
    why=(
        "No rule of the catalogue covers this case. The line, the op and the "
        "path come from the values of the step."
    ),
    help=(
        Remedy(
            text="check the custom gradient function",
            before="return ops.zeros_like(upstream)",
            after="return upstream",
            when=_is_own,
        ),
        Remedy(
            text="inspect the inputs of the op, and report the case",
            when=no(_is_own),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [unexplained-zero]", "").replace(
        "tf.zeros_like(upstream)", "tf.clip_by_value(upstream, -1.0, 1.0)"
    ),
)
