"""GG124: an op that returns indices, labels or counts."""

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
    message="`{op}` returns integers, which have no gradient",
    why=(
        "Indices, labels and counts are piecewise constant: their derivative "
        "is zero or undefined."
    ),
    help=(
        Remedy(
            text="use the indices to gather values that have a gradient",
            before='error = ops.mean(ops.cast(kept, "float32"))',
            after="error = ops.mean(ops.take(scores, kept, axis=0))",
            when=lambda finding: "Suppression" in (finding.op or ""),
        ),
        Remedy(
            text="use the CTC loss of the scores; keep decoding for metrics",
            before=(
                "decoded, _ = tf.nn.ctc_greedy_decoder(scores, lengths)\n"
                "guess = tf.sparse.to_dense(decoded[0])\n"
                'error = ops.mean(ops.cast(guess, "float32"))'
            ),
            after=(
                "error = ops.mean(\n"
                "    tf.nn.ctc_loss(labels, scores, label_lengths, lengths)\n"
                ")"
            ),
            when=lambda finding: "CTC" in (finding.op or ""),
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
