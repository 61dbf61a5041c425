"""GG114: a count of values instead of the values."""

import itertools

from keras_gradguard.rules._rule import Remedy, Rule

CALLS = {
    "bincount",
    "confusion_matrix",
    "digitize",
    "count_nonzero",
    "count_nonzero_v2",
    "histogram",
    "histogram_fixed_width",
    "histogram_fixed_width_bins",
    "searchsorted",
    "unique",
    "unique_with_counts",
}


# How many are found is read off the shape of where they are.
_LENGTHS = {("Where", op) for op in ("Size", "Shape", "ShapeN", "OnesLike")}


def _matches(finding):
    return bool(
        {finding.op, *finding.chain}.intersection(RULE.ops)
        or CALLS.intersection(finding.calls)
        or _LENGTHS.intersection(itertools.pairwise(finding.chain))
    )


RULE = Rule(
    code="GG114",
    name="counting",
    kind="disconnected",
    ops=(
        "Bincount",
        "Bucketize",
        "DenseBincount",
        "SparseBincount",
        "RaggedBincount",
        "HistogramFixedWidth",
        "Unique",
        "UniqueV2",
        "UniqueWithCounts",
        "UniqueWithCountsV2",
        "SearchSorted",
        "LowerBound",
        "UpperBound",
    ),
    matches=_matches,
    message="values are counted, and a count has no slope",
    why=(
        "Bins, histograms, confusion matrices and counts move in whole "
        "steps when a value crosses a border, and not at all in between."
    ),
    help=(
        Remedy(
            text="let each value share itself out among the bins",
            before="counts = tf.histogram_fixed_width(y_pred, [0.0, 1.0], 5)",
            after=(
                "distance = y_pred[..., tf.newaxis] - "
                "tf.linspace(0.1, 0.9, 5)\n"
                "share = tf.nn.softmax(-tf.square(distance / 0.2))\n"
                "counts = tf.reduce_sum(share, axis=[0, 1])"
            ),
        ),
        Remedy(
            text="to count what passes a threshold, sum a soft one",
            before="count = tf.math.count_nonzero(y_pred > 0.5)",
            after="count = tf.reduce_sum(tf.sigmoid(10.0 * (y_pred - 0.5)))",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    wanted = tf.histogram_fixed_width(y_true, [0.0, 1.0], 5)
    counts = tf.histogram_fixed_width(y_pred, [0.0, 1.0], 5)  # [counting]
    return tf.reduce_mean(tf.square(tf.cast(counts - wanted, tf.float32)))
""",
    good="""\
import tensorflow as tf


def histogram(values):
    distance = values[..., tf.newaxis] - tf.linspace(0.1, 0.9, 5)
    share = tf.nn.softmax(-tf.square(distance / 0.2))
    return tf.reduce_sum(share, axis=[0, 1])


def loss(y_true, y_pred):
    counts, wanted = histogram(y_pred), histogram(y_true)
    return tf.reduce_mean(tf.square(counts - wanted))
""",
)
