"""Steps of the user's own that use a loss scale twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.monitor.test_unscaled_loss import (
    MODES,
    NAMES,
    ByConstant,
    Own,
    X,
    Y,
    fit,
)


class Twice(Own):
    """A helper scales, and so does the step."""

    def scaled(self, loss):
        """The second one is the step's."""
        once = self.optimizer.scale_loss(loss)
        return self.optimizer.scale_loss(once)  # TWICE


class OwnUnscaling(Own):
    """A step that is right, if nothing happens to its gradients."""

    def train_step(self, data):
        """Trains on a loss that is scaled."""
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = tf.cast(self(x, training=True), tf.float32)
            loss = tf.reduce_mean(tf.square(y_pred - y))
            scaled = self.optimizer.scale_loss(loss)
        weights = self.trainable_variables
        gradients = tape.gradient(scaled, weights)
        self.optimizer.apply(self.treated(gradients), weights)
        return {"loss": loss}

    def treated(self, gradients):
        """What becomes of the gradients."""
        return gradients


class UnscaledByCall(OwnUnscaling):
    """Divides by what `scale_loss` makes of 1."""

    def treated(self, gradients):
        """Divides, then clips."""
        scale = self.optimizer.scale_loss(1.0)
        gradients = [g / tf.cast(scale, g.dtype) for g in gradients]  # UNSCALED
        return tf.clip_by_global_norm(gradients, 100.0)[0]


class UnscaledByReading(OwnUnscaling):
    """Divides by the variable."""

    def treated(self, gradients):
        """Divides."""
        if not self.optimizer.built:
            return gradients
        scale = tf.convert_to_tensor(self.optimizer.dynamic_scale)
        return [g / scale for g in gradients]  # UNSCALED


class ScaledBack(OwnUnscaling):
    """Clips what is unscaled, and scales it again."""

    def treated(self, gradients):
        """As large as the optimizer expects."""
        scale = self.optimizer.scale_loss(1.0)
        clipped, _ = tf.clip_by_global_norm([g / scale for g in gradients], 1.0)
        return [g * scale for g in clipped]


class ClippedAsItIs(OwnUnscaling):
    """Clips what is scaled: the norm is 1, whatever the scale."""

    def treated(self, gradients):
        """Another fault, if any."""
        return tf.clip_by_global_norm(gradients, 1e-3)[0]


class ScaleInLogs(OwnUnscaling):
    """Asks twice, once to show it."""

    def train_step(self, data):
        """Adds the scale to the logs."""
        logs = super().train_step(data)
        return {**logs, "scale": self.optimizer.scale_loss(1.0)}


class ByConstantAndShown(ByConstant):
    """Scales by hand, and shows what the optimizer says."""

    def train_step(self, data):
        """Adds the scale to the logs."""
        logs = super().train_step(data)
        return {**logs, "scale": self.optimizer.scale_loss(1.0)}


class Accumulated(OwnUnscaling):
    """Two halves of a batch, each with a loss that is scaled."""

    def train_step(self, data):
        """Adds up the gradients of both."""
        x, y = data
        total = None
        for part in (slice(0, 8), slice(8, 16)):
            with tf.GradientTape() as tape:
                y_pred = tf.cast(self(x[part], training=True), tf.float32)
                loss = tf.reduce_mean(tf.square(y_pred - y[part])) / 2.0
                scaled = self.optimizer.scale_loss(loss)
            weights = self.trainable_variables
            gradients = tape.gradient(scaled, weights)
            known = total or [tf.zeros_like(g) for g in gradients]
            total = [a + b for a, b in zip(known, gradients, strict=True)]
        self.optimizer.apply(total, weights)
        return {"loss": loss}


def line(mark, number):
    """The number of one of the lines that have a mark."""
    with open(__file__) as file:
        found = [n for n, t in enumerate(file, 1) if t.rstrip().endswith(mark)]
    return found[number]


HEALTHY = [
    *(OwnUnscaling, ScaledBack, ClippedAsItIs, ScaleInLogs),
    *(ByConstantAndShown, Accumulated),
]


@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_scale_that_is_used_once(kind, eager):
    """The optimizer divides by what the loss was multiplied with."""
    assert () == fit(kind(), eager).diagnoses


def moved_by(model, eager, scale):
    """How far one step with a loss scale moves the weights, an oracle."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1.0), initial_scale=scale
    )
    model.compile(optimizer, "mse", run_eagerly=eager)
    model(X)
    optimizer.build(model.trainable_variables)
    optimizer.built = True
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 0.1))
    before = [np.array(v) for v in model.trainable_variables]
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    pairs = zip(before, model.trainable_variables, strict=True)
    return np.sqrt(sum(np.sum((a - np.array(v)) ** 2) for a, v in pairs))


FAULTS = [
    (Twice, "GG264", "wrong", 4.0, ("# TWICE", 0)),
    (UnscaledByCall, "GG265", "underflow", 0.25, ("# UNSCALED", 0)),
    (UnscaledByReading, "GG265", "underflow", 0.25, ("# UNSCALED", 1)),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("eager", MODES, ids=NAMES)
@pytest.mark.parametrize(("kind", "code", "sort", "growth", "mark"), FAULTS)
def test_a_scale_that_is_used_twice(kind, code, sort, growth, mark, eager):
    """At the second use; what an update does with the scale is measured."""
    moved = [moved_by(kind(), eager, scale) for scale in (4.0, 16.0)]
    assert moved[1] / moved[0] == pytest.approx(growth, rel=0.02)
    report = fit(kind(), eager)
    assert [code] == [d.code for d in report.diagnoses]
    (found,) = report.diagnoses
    assert ("error", sort, "proved") == (
        found.severity,
        found.kind,
        found.certainty,
    )
    assert line(*mark) == found.line
    assert 4 == len(found.variables)


@pytest.mark.parametrize("kind", [OwnUnscaling, ScaledBack, Accumulated])
def test_an_update_does_not_hang_on_the_scale(kind):
    """What the healthy steps do, by the same oracle."""
    moved = [moved_by(kind(), True, scale) for scale in (4.0, 16.0)]
    assert moved[1] / moved[0] == pytest.approx(1.0, rel=0.02)
