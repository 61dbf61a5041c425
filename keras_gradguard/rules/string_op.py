"""GG117: numbers that went through text."""

from keras_gradguard.rules._rule import Remedy, Rule


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
    message="numbers become text, and text has no gradient",
    why=(
        "Text has no small change, so no gradient passes it; turning it "
        "back into numbers does not restore one."
    ),
    help=(
        Remedy(
            text="leave the numbers as they are; text is for display",
            before=(
                "text = tf.strings.as_string(y_pred, precision=2)\n"
                "scores = tf.strings.to_number(text)"
            ),
            after="scores = y_pred",
        ),
        Remedy(
            text="or pass the gradient straight by",
            before="scores = tf.strings.to_number(text)",
            after=(
                "scores = tf.strings.to_number(text)\n"
                "scores = y_pred + tf.stop_gradient(scores - y_pred)"
            ),
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
