"""`every`: a number of steps or a function of the step."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from keras_gradguard.schedule import thinning
from tests.fitting import X, Y, classifier


def recorded_steps(log_dir):
    """Steps of the records in the event file below a log folder."""
    (file,) = log_dir.glob("gradients/*")
    steps = set()
    for data in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(data.numpy())
        if any(v.tag == "gradients/global_norm" for v in event.summary.value):
            steps.add(event.step)
    return sorted(steps)


def train(callback, epochs=3, **compile_arguments):
    """Trains in steps of 4 samples, 4 steps an epoch."""
    model = classifier("mse")
    if compile_arguments:
        model.compile("sgd", "mse", **compile_arguments)
    model.fit(
        X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=[callback]
    )
    return model


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (5, [0, 5, 10]),
        (lambda step: step < 2 or step % 5 == 0, [0, 1, 5, 10]),
        (lambda step: step == 7, [7]),
        (lambda step: np.isin(step, [1, 3]), [1, 3]),
        (lambda step: tf.constant(step) == 6, [6]),
    ],
)
def test_records_where_the_schedule_says(every, steps, tmp_path):
    """A record has the number of its step, counted from 0 as `every` is."""
    callback = GradHealthCallback(log_dir=tmp_path, every=every)
    train(callback)
    assert steps == recorded_steps(tmp_path)
    assert {steps[-1]} == {row.step for row in callback.report.variables}


@pytest.mark.parametrize(("steps", "calls"), [(1, 12), (2, 6)])
def test_function_is_asked_once_a_step(steps, calls):
    """Steps are calls of the train function, and each `fit` begins at 0."""
    asked = []
    callback = GradHealthCallback(every=lambda step: bool(asked.append(step)))
    for _ in range(2):
        train(callback, steps_per_execution=steps)
    assert [*range(calls), *range(calls)] == asked
    assert {"unknown"} == {row.status for row in callback.report.variables}


def test_first_record_looks_for_cuts_behind_zeros():
    """A loop that is cut inside shows zeros, also if step 0 is skipped."""

    def body(number, value):
        return number + 1, tf.round(value)

    def looped(y_true, y_pred):
        value = tf.while_loop(lambda n, v: n < 2, body, (0, y_pred))[1]
        return tf.reduce_mean(tf.square(y_true - value))

    for every in (1, lambda step: step == 2):
        callback = GradHealthCallback(every=every)
        model = classifier(looped)
        with pytest.warns(UserWarning, match="GG105"):
            model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
        assert ["GG105"] == [d.code for d in callback.report.diagnoses]


def test_patience_counts_the_records_of_a_schedule():
    """Three records of zeros are needed, however far apart."""
    zeros = keras.layers.Lambda(lambda t: t * 0.0, name="zeros")
    seen = {}

    class Watching(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for diagnosis in callback.report.diagnoses:
                seen.setdefault(diagnosis.kind, self.count)
            self.count += 1

        def on_train_begin(self, logs=None):
            self.count = 0

    callback = GradHealthCallback(
        every=lambda step: step in (0, 5, 9, 10), thresholds={"patience": 3}
    )
    model = classifier("mse", middle=zeros)
    with pytest.warns(UserWarning, match="zero"):
        model.fit(
            X,
            Y,
            batch_size=4,
            epochs=4,
            verbose=0,
            callbacks=[callback, Watching()],
        )
    assert 9 == seen["zero"]


def test_thinning():
    """Every step, every tenth, every hundredth; exact at the borders."""
    steps = [step for step in range(2001) if thinning(step)]
    expected = [*range(100), *range(100, 1000, 10), *range(1000, 2001, 100)]
    assert expected == steps
    assert 460 == sum(map(thinning, range(1_000_000)))


def failing(step):
    """Fails at the third step."""
    return bool(1 // (2 - step))


@pytest.mark.parametrize(
    ("every", "words"),
    [
        (lambda step: None, "returned None at step 0"),
        (lambda step: step % 100, "as in `step % 100 == 0`"),
        (lambda step: np.array([True]), "neither True nor False"),
        (lambda step: "yes", "returned 'yes'"),
        (failing, "failed at step 2 with ZeroDivisionError"),
    ],
)
def test_bad_answers(every, words):
    """The error tells what came back; the model is as before."""
    callback = GradHealthCallback(every=every)
    model = classifier("mse")
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    assert "every=lambda step: step < 10 or step % 100 == 0" in str(
        caught.value
    )
    assert "train_step" not in vars(model)
    assert "apply" not in vars(model.optimizer)
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("every", "words"),
    [
        ("10", "every='10'"),
        (None, "every=None"),
        (-3, "every=-3"),
        (lambda: True, "cannot be called with one argument"),
        (lambda step, epoch: True, "missing a required argument: 'epoch'"),
    ],
)
def test_bad_schedules(every, words):
    """They are reported before the training."""
    with pytest.raises(ValueError, match=re.escape(words)):
        GradHealthCallback(every=every)
