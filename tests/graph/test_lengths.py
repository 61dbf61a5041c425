"""How many rows were found is a value too, and carries no gradient."""

import keras
import pytest
import tensorflow as tf

from tests.fitting import MODES, NAMES, classifier, fit, marked


def size_of_where(y_true, y_pred):
    """How many positions."""
    found = tf.where(y_pred > 0.5)  # cut
    return tf.reduce_sum(y_true) - tf.cast(tf.size(found), tf.float32)


def shape_of_mask(y_true, y_pred):
    """How many rows a mask has kept."""
    kept = tf.boolean_mask(y_pred, y_pred > 0.5)  # cut
    return tf.reduce_sum(y_true) - tf.cast(tf.shape(kept)[0], tf.float32)


def ones_for_each(y_true, y_pred):
    """A one for each that was kept, added up."""
    kept = tf.boolean_mask(y_pred, y_pred > 0.5)  # cut
    return tf.reduce_sum(y_true) - tf.reduce_sum(tf.ones_like(kept))


def different(y_true, y_pred):
    """How many different values there are."""
    values, _ = tf.unique(tf.reshape(y_pred, [-1]))  # cut
    return tf.reduce_sum(y_true) - tf.cast(tf.size(values), tf.float32)


def right_ones(y_true, y_pred):
    """How many classes are right."""
    best = tf.argmax(y_pred, axis=-1)  # cut
    right = tf.where(tf.equal(best, tf.argmax(y_true, axis=-1)))
    return 1.0 - tf.cast(tf.shape(right)[0], tf.float32) / 6.0


@tf.function
def positions(scores):
    """Finds them in a function of its own."""
    return tf.where(scores > 0.5)  # cut


def in_helper(y_true, y_pred):
    """Counts what the helper has found."""
    number = tf.shape(positions(y_pred))[0]
    return tf.reduce_sum(y_true) - tf.cast(number, tf.float32)


CUTS = {
    size_of_where: ("GG114", size_of_where),
    shape_of_mask: ("GG114", shape_of_mask),
    ones_for_each: ("GG114", ones_for_each),
    different: ("GG114", different),
    right_ones: ("GG104", right_ones),
    in_helper: ("GG114", positions.python_function),
}


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", CUTS, ids=lambda loss: loss.__name__)
def test_number_of_what_was_found_cuts(loss, eager):
    """It depends on the prediction, and the line that finds is named."""
    code, home = CUTS[loss]
    callback, _ = fit(classifier(loss, eager))
    (found,) = callback.report.diagnoses
    assert (code, *marked(home)) == (found.code, found.file, found.line)


def rows(y_true, y_pred):
    """How many rows a batch has."""
    return tf.reduce_sum(y_true) / tf.cast(tf.shape(y_pred)[0], tf.float32)


def rows_of_parts(y_true, y_pred):
    """The same behind ops that keep, join and cut rows."""
    parts = tf.concat([y_pred, keras.ops.tanh(y_pred)], axis=0)
    ones = tf.ones_like(tf.reshape(tf.transpose(parts), [-1])[1:])
    return tf.reduce_sum(y_true) * tf.reduce_sum(ones)


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("loss", [rows, rows_of_parts])
def test_number_of_rows_is_no_prediction(loss, eager):
    """Whatever is predicted, it is the same."""
    callback, _ = fit(classifier(loss, eager))
    (found,) = callback.report.diagnoses
    assert "GG303" == found.code
