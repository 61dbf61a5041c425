"""GG117: numbers converted to text and back."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import before


def _matches(finding):
    return bool({finding.op, *finding.chain[:3]}.intersection(RULE.ops))


RULE = Rule(
    code="GG117",
    name="string-op",
    kind="disconnected",
    ops=(
        "AsString",
        "StringFormat",
        "StringJoin",
        "StringLength",
        "StringToNumber",
        "StringToHashBucket",
        "StringToHashBucketFast",
        "StringToHashBucketStrong",
        "EncodeBase64",
        "DecodeBase64",
        "SerializeTensor",
        "ParseTensor",
    ),
    matches=_matches,
    message="numbers are converted to text, which has no gradient",
    why=(
        "A string is not differentiable, and parsing it into numbers again "
        "does not restore the gradient."
    ),
    help=(
        Remedy(
            text="use the numbers themselves; format them only for display",
            before=(
                "text = tf.strings.as_string(y_pred, precision=2)\n"
                "scores = tf.strings.to_number(text)"
            ),
            after="scores = y_pred",
            when=before("StringToNumber"),
        ),
        Remedy(
            text="keep the value, with a straight-through gradient",
            before="scores = tf.strings.to_number(text)",
            after=(
                "scores = tf.strings.to_number(text)\n"
                "scores = y_pred + ops.stop_gradient(scores - y_pred)"
            ),
            when=before("StringToNumber"),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    text = tf.strings.as_string(y_pred, precision=2)  # [string-op]
    scores = tf.strings.to_number(text)
    return tf.reduce_mean(tf.square(y_true - scores))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))
""",
)
