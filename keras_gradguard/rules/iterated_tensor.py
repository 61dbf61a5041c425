"""GG110: a Python loop over a tensor."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line

RULE = Rule(
    code="GG110",
    name="iterated-tensor",
    kind="untraceable",
    matches=lambda finding: finding.cause == "iterated_tensor",
    message="a Python loop iterates over a tensor",
    why=(
        "`for`, `len`, `range` and unpacking need the number of rows, and the "
        "batch size is unknown while the step is compiled."
    ),
    help=(
        Remedy(
            text="read the number of rows with ops.shape",
            before="count = len(y_pred)",
            after='count = ops.cast(ops.shape(y_pred)[0], "float32")',
            when=line(r"\blen\("),
        ),
        Remedy(
            text="compute on all rows at once",
            before=(
                "total = 0.0\n"
                "for row in y_pred:\n"
                "    total += ops.max(ops.square(row))"
            ),
            after="total = ops.sum(ops.max(ops.square(y_pred), axis=-1))",
        ),
        Remedy(
            text="map a function over the rows",
            before="rows = [function(row) for row in y_pred]",
            after="rows = ops.map(function, y_pred)",
        ),
    ),
    bad="""\
import tensorflow as tf


def loss(y_true, y_pred):
    errors = []
    for target, scores in zip(y_true, y_pred):  # [iterated-tensor]
        errors.append(tf.reduce_max(tf.square(target - scores)))
    return tf.reduce_mean(tf.stack(errors))
""",
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    errors = tf.reduce_max(tf.square(y_true - y_pred), axis=-1)
    return tf.reduce_mean(errors)
""",
)
