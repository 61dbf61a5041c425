"""Step 2 of 5: how a bad step is left out, in the graph."""

import tensorflow as tf


class Withholding:
    """Leaves out what a bad step would do to a model.

    Args:
        model: The Keras model.
        what: `None` to leave out nothing, `"bad"` for the updates of a bad
            step, `"after"` for those of all steps that follow it as well.
        latch: The `Latch` of the first bad step.
    """

    def __init__(self, model, what, latch):
        self._model = model
        self.what = what
        self._latch = latch
        self._before = []

    def begin(self):
        """Reads what a step changes by itself: call it before the step."""
        if self.what is not None:
            kept = [
                *self._model.non_trainable_weights,
                *self._model.metrics_variables,
            ]
            self._before = [(v, tf.identity(v)) for v in kept]

    def held(self, carry):
        """Returns whether an update is left out: a boolean scalar tensor.

        Args:
            carry: The `Carry` of the step.

        Returns:
            `None` if none ever is.
        """
        if self.what is None:
            return None
        return self._reached(carry.is_bad())

    def _reached(self, is_bad):
        return is_bad | self._latch.is_set() if self.what == "after" else is_bad

    def apply(self, capture, held, apply):
        """Makes an update, or leaves it out.

        Args:
            capture: The `OptimizerCapture` of the update.
            held: What `held` returned.
            apply: Makes it.
        """
        if held is None:
            return apply()
        if not capture.optimizer.built:
            capture.optimizer.build(capture.variables)

        def make():
            apply()
            return tf.constant(0)

        tf.cond(held, lambda: tf.constant(0), make)
        return None

    def restored(self, logs, is_bad):
        """Leaves statistics and metrics as they were before a bad step.

        Args:
            logs: The logs of the step, a dict.
            is_bad: Boolean scalar tensor.

        Returns:
            The logs of the step; where it is left out, with the metrics as
            they are now.
        """
        if self.what is None:
            return logs
        is_left_out = self._reached(is_bad)

        def restore():
            for variable, value in self._before:
                variable.assign(value)
            return tf.constant(0)

        tf.cond(is_left_out, restore, lambda: tf.constant(0))
        now = self._model.get_metrics_result()
        if now.keys() != logs.keys():
            return logs
        return {
            name: tf.where(is_left_out, now[name], value)
            if _are_alike(now[name], value)
            else value
            for name, value in logs.items()
        }


def _are_alike(one, other):
    """Returns whether both are tensors of one type and known shape."""
    return (
        tf.is_tensor(one)
        and tf.is_tensor(other)
        and one.dtype == other.dtype
        and one.shape.is_fully_defined()
        and one.shape == other.shape
    )
