"""GG114: a count of values instead of the values."""

import itertools

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import (
    before,
    both,
    calls,
    either,
    line,
    no,
    op,
)

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
    message="a count has no gradient: it is piecewise constant",
    why=(
        "Counts, histograms, bins and confusion matrices change only when a "
        "value crosses a threshold, so their derivative is zero or undefined."
    ),
    help=(
        Remedy(
            text="let each value contribute to all bins (soft histogram)",
            before="counts = tf.histogram_fixed_width(y_pred, [0.0, 1.0], 5)",
            after=(
                "centres = ops.linspace(0.1, 0.9, 5)\n"
                "distance = ops.reshape(y_pred, (-1, 1)) - centres\n"
                "share = ops.softmax(-ops.square(distance / 0.2))\n"
                "counts = ops.sum(share, axis=0)"
            ),
            when=calls("histogram_fixed_width"),
        ),
        Remedy(
            text="let each value contribute to all bins (soft histogram)",
            before="counts = ops.bincount(bins, minlength=5)",
            after=(
                "gaps = bins[..., None] - ops.cast(ops.arange(5), bins.dtype)\n"
                "share = ops.softmax(-ops.square(2.0 * gaps))\n"
                "counts = ops.sum(ops.reshape(share, (-1, 5)), axis=0)"
            ),
            when=both(
                either(calls("bincount"), before("Bincount", "DenseBincount")),
                no(calls("histogram_fixed_width")),
            ),
        ),
        Remedy(
            text="sum a smooth indicator of values other than zero",
            before="count = ops.count_nonzero(y_pred)",
            after="count = ops.sum(1.0 - ops.exp(-ops.square(y_pred)))",
            when=calls("count_nonzero", "count_nonzero_v2"),
        ),
        Remedy(
            text="sum a sigmoid instead of counting rows over a threshold",
            before="count = ops.shape(tf.where(y_pred > 0.5))[0]",
            after="count = ops.sum(ops.sigmoid(10.0 * (y_pred - 0.5)))",
            when=line(r"\btf\.where\("),
        ),
        Remedy(
            text="add up a sigmoid for each bin edge",
            before="bins = ops.searchsorted(edges, y_pred[:, 0])",
            after=(
                "gaps = y_pred[:, :1] - edges\n"
                "bins = ops.sum(ops.sigmoid(10.0 * gaps), axis=-1)"
            ),
            when=op("SearchSorted", "LowerBound", "UpperBound", "Bucketize"),
        ),
        Remedy(
            text="add up class probabilities (soft confusion matrix)",
            before="table = tf.math.confusion_matrix(labels, classes, 3)",
            after=(
                "truth = ops.one_hot(labels, 3)\n"
                "table = ops.matmul(ops.transpose(truth), ops.softmax(y_pred))"
            ),
            when=calls("confusion_matrix"),
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
    centres = tf.cast(tf.linspace(0.1, 0.9, 5), values.dtype)
    distance = values[..., tf.newaxis] - centres
    share = tf.nn.softmax(-tf.square(distance / 0.2))
    return tf.reduce_sum(share, axis=[0, 1])


def loss(y_true, y_pred):
    counts, wanted = histogram(y_pred), histogram(y_true)
    return tf.reduce_mean(tf.square(counts - wanted))
""",
)
