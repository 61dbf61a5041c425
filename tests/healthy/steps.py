"""Training steps that the user wrote."""

import keras
import tensorflow as tf

from .build import compile_with, dense, normal, regression


def subclassed(step, loss="mse", **arguments):
    """Returns a dense model with its own training step."""

    class Stepper(keras.Model):
        """A model with a training step of its own."""

        train_step = step

    body = dense(1)
    model = Stepper(body.inputs, body.outputs)
    compile_with(model, loss, **arguments)
    return model, normal(16, 4), normal(16, 1)


def own_step():
    """The training step of the Keras guide."""

    def train_step(self, data):
        """One step, metrics included."""
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}

    return subclassed(train_step, metrics=["mae"])


def clipped_step():
    """Gradients are clipped by their common norm."""

    def train_step(self, data):
        """One step that goes no further than 1."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        variables = self.trainable_variables
        gradients, norm = tf.clip_by_global_norm(
            tape.gradient(loss, variables), 1.0
        )
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"objective": loss, "norm": norm}

    return subclassed(train_step)


def sharpness_aware():
    """Two tapes: up the slope, then down from there (SAM)."""

    def train_step(self, data):
        """One step with the gradient from a nearby point."""
        x, y = data
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        first = tape.gradient(loss, variables)
        scale = 0.05 / (tf.linalg.global_norm(first) + 1e-12)
        for variable, gradient in zip(variables, first, strict=True):
            variable.assign_add(scale * gradient)
        with tf.GradientTape() as tape:
            nearby = self.compute_loss(y=y, y_pred=self(x, training=True))
        second = tape.gradient(nearby, variables)
        for variable, gradient in zip(variables, first, strict=True):
            variable.assign_sub(scale * gradient)
        self.optimizer.apply(second, variables)
        return {"objective": loss}

    return subclassed(train_step)


def gradient_penalty():
    """A tape in a tape: the slope at the input is part of the loss."""

    def train_step(self, data):
        """One step with a penalty on the slope."""
        x, y = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y_pred = self(x, training=True)
            slope = tf.norm(inner.gradient(y_pred, x) + 1e-6, axis=1)
            loss = self.compute_loss(y=y, y_pred=y_pred)
            loss += 0.1 * tf.reduce_mean(tf.square(slope - 1.0))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"objective": loss}

    return subclassed(train_step)


def clipping_optimizer():
    """The optimizer clips and keeps a moving average by itself."""
    optimizer = keras.optimizers.SGD(0.01, clipnorm=1.0, use_ema=True)
    return regression("mse", optimizer=optimizer)


def accumulated_gradients():
    """Weights move in every second batch only."""
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    return regression("mse", optimizer=optimizer, fit={"batch_size": 4})


def head_only_step():
    """A linear probe: the step asks for the head's gradients alone."""

    class Probe(keras.Model):
        """Leaves its body as it is."""

        def train_step(self, data):
            """One step for the last layer."""
            x, y = data
            head = self.layers[-1].trainable_variables
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            self.optimizer.apply(tape.gradient(loss, head), head)
            return {"objective": loss}

    body = dense(1)
    model = Probe(body.inputs, body.outputs)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.layers[-1].trainable_variables)
    compile_with(model, "mse", optimizer=optimizer)
    return model, normal(16, 4), normal(16, 1)


CASES = (
    own_step,
    clipped_step,
    sharpness_aware,
    gradient_penalty,
    clipping_optimizer,
    accumulated_gradients,
    head_only_step,
)
NO_SINGLE_LOSS = ()
