"""Loops and branches over predictions, differentiable all the way."""

import tensorflow as tf

from .build import regression


def mapped():
    """Row by row with tf.map_fn."""

    def loss(y_true, y_pred):
        """Squared error of each row."""
        return tf.map_fn(
            lambda row: tf.reduce_mean(tf.square(row[0] - row[1])),
            (y_true, y_pred),
            fn_output_signature=tf.float32,
        )

    return regression(loss, outputs=3)


def while_loop():
    """A discounted sum in a tf.while_loop."""

    def loss(y_true, y_pred):
        """Squared error of the discounted sums."""
        error = y_true - y_pred

        def body(step, total):
            """Adds one column."""
            return step + 1, 0.9 * total + error[:, step]

        _, total = tf.while_loop(
            lambda step, _: step < 3, body, (0, tf.zeros_like(error[:, 0]))
        )
        return tf.reduce_mean(tf.square(total))

    return regression(loss, outputs=3)


def array_in_loop():
    """A TensorArray that is written and stacked by AutoGraph."""

    @tf.function
    def running_sum(error):
        """Cumulative sum along the columns."""
        total = tf.zeros_like(error[:, 0])
        array = tf.TensorArray(tf.float32, size=3)
        for step in tf.range(3):
            total = total + error[:, step]
            array = array.write(step, total)
        return array.stack()

    def loss(y_true, y_pred):
        """Squared error of the running sums."""
        return tf.reduce_mean(tf.square(running_sum(y_true - y_pred)))

    return regression(loss, outputs=3)


def scan():
    """A running sum with tf.scan."""

    def loss(y_true, y_pred):
        """Squared error of the running sums."""
        error = tf.transpose(y_true - y_pred)
        total = tf.scan(lambda state, column: 0.9 * state + column, error)
        return tf.reduce_mean(tf.square(total))

    return regression(loss, outputs=3)


def branch_on_predictions():
    """A tf.cond on the prediction itself: Huber over the whole batch."""

    def loss(y_true, y_pred):
        """Squared norm when near, norm when far."""
        norm = tf.norm(y_true - y_pred)
        return tf.cond(
            norm < 1.0, lambda: 0.5 * tf.square(norm), lambda: norm - 0.5
        )

    return regression(loss)


CASES = (
    mapped,
    while_loop,
    array_in_loop,
    scan,
    branch_on_predictions,
)
NO_SINGLE_LOSS = ()
