"""GG124: an op that makes indices, labels or counts of numbers."""

from keras_gradguard.rules._rule import Remedy, Rule


def _matches(finding):
    dtype = finding.output_dtype or ""
    # It makes no number of its input, but shows the bits of it.
    return dtype.startswith(("int", "uint")) and finding.op != "Bitcast"


RULE = Rule(
    code="GG124",
    name="whole-numbers",
    kind="disconnected",
    matches=_matches,
    message="`{op}` returns whole numbers, which have no slope",
    why=(
        "Indices, labels and counts move in whole steps: a small change of "
        "what they are made from does not move them."
    ),
    help=(
        Remedy(
            text="let the indices pick, and use the values that they pick",
            before="error = tf.reduce_mean(tf.cast(kept, tf.float32))",
            after="error = tf.reduce_mean(tf.gather(scores, kept))",
        ),
        Remedy(
            text="or compare the scores; what is decoded is for metrics",
            before="decoded, _ = tf.nn.ctc_greedy_decoder(scores, lengths)",
            after="loss = tf.nn.ctc_loss(labels, scores, None, lengths)",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    corners = tf.sigmoid(tf.concat([y_pred, y_pred[:, :1]], axis=-1))
    scores = y_pred[:, 0]
    kept = tf.image.non_max_suppression(corners, scores, 5)  # [whole-numbers]
    return tf.reduce_mean(tf.cast(kept, tf.float32) - y_true[:5, 0])
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    corners = tf.sigmoid(tf.concat([y_pred, y_pred[:, :1]], axis=-1))
    scores = y_pred[:, 0]
    kept = tf.image.non_max_suppression(corners, scores, 5)
    gap = tf.gather(y_pred, kept) - tf.gather(y_true, kept)
    return tf.reduce_mean(tf.square(gap))
""",
)
