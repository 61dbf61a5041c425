"""GG113: the positions where a condition on the scores holds."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import before, both, line, no

_is_mask = both(before("Gather", "GatherV2"), no(line("nonzero")))


RULE = Rule(
    code="GG113",
    name="where-indices",
    kind="disconnected",
    ops=("Where",),
    matches=lambda finding: (
        finding.op == "Where" or "Where" in finding.chain[:3]
    ),
    message="positions from `where` have no gradient",
    why=(
        "`where` with one argument, `nonzero` and a Boolean mask select rows "
        "by integer indices. A small change of the scores does not change the "
        "indices."
    ),
    help=(
        Remedy(
            text="weight by a sigmoid instead of selecting",
            before="picked = cost[y_pred > 0.5]",
            after="picked = cost * ops.sigmoid(10.0 * (y_pred - 0.5))",
            when=_is_mask,
        ),
        Remedy(
            text="use the distance of the score above the threshold",
            before="picked = cost[y_pred > 0.5]",
            after="picked = ops.relu(y_pred - 0.5)",
            when=_is_mask,
        ),
        Remedy(
            text="weight by a sigmoid instead of collecting positions",
            before=(
                "found = tf.where(y_pred > 0.5)\n"
                "return ops.sum(1.0 - tf.gather_nd(y_true, found))"
            ),
            after=(
                "found = ops.sigmoid(10.0 * (y_pred - 0.5))\n"
                "return ops.sum(found * (1.0 - y_true))"
            ),
            when=line(r"\btf\.where\("),
        ),
        Remedy(
            text="weight by a sigmoid instead of collecting positions",
            before=(
                "rows = ops.nonzero(y_pred[:, 0] > 0.5)[0]\n"
                "return ops.sum(1.0 - ops.take(y_true[:, 0], rows, axis=0))"
            ),
            after=(
                "share = ops.sigmoid(10.0 * (y_pred[:, 0] - 0.5))\n"
                "return ops.sum(share * (1.0 - y_true[:, 0]))"
            ),
            when=line("nonzero"),
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    found = tf.where(y_pred > 0.5)  # [where-indices]
    return tf.reduce_sum(1.0 - tf.gather_nd(y_true, found))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    found = tf.sigmoid(10.0 * (y_pred - 0.5))
    return tf.reduce_sum(found * (1.0 - y_true) + (1.0 - found) * y_true)
""",
)
