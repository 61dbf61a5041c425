"""GG110: a Python loop over a tensor."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG110",
    name="iterated-tensor",
    kind="untraceable",
    matches=lambda finding: finding.cause == "iterated_tensor",
    message="Python loops over a tensor",
    why=(
        "`for`, `len`, `range` and unpacking need the number of rows while "
        "the step is being traced, and the batch size is not known then."
    ),
    help=(
        Remedy(
            text="compute on all rows at once",
            before=("for row in y_pred:\n    total += tf.reduce_max(row)"),
            after="total = tf.reduce_sum(tf.reduce_max(y_pred, axis=-1))",
        ),
        Remedy(
            text="or let TensorFlow loop",
            before="rows = [function(row) for row in y_pred]",
            after="rows = tf.map_fn(function, y_pred)",
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
