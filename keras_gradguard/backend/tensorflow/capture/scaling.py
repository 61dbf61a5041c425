"""How an optimizer scales and clips gradients, in the graph.

It adds nothing to the step of an optimizer that does neither.
"""

import keras
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.graphs import guard_variables
from keras_gradguard.model.optimizers import updating

CLIPS = ("global_clipnorm", "clipnorm", "clipvalue")
# Of the state: the loss scale of the last step, how often it fell, how often
# it fell once it had held for a step, whether it has, steps, and clipped ones.
_SCALE, _DROPS, _LATE, _HELD, _STEPS, _CLIPPED = range(6)


class Scaling:
    """Follows the loss scale and the clipping of one optimizer.

    Args:
        optimizer: The Keras optimizer, the outermost if it wraps another.

    Attributes:
        clip: `(name, limit)` of its clipping, or `None`.
        accumulation_steps: How many `apply` calls make one update.
        is_scaled: Whether its loss scale is dynamic.
    """

    def __init__(self, optimizer):
        inner = updating(optimizer)
        limits = ((name, getattr(inner, name, None)) for name in CLIPS)
        self.clip = next((c for c in limits if c[1] is not None), None)
        steps = getattr(inner, "gradient_accumulation_steps", None)
        self.accumulation_steps = steps or 1
        self.is_scaled = isinstance(
            optimizer, keras.optimizers.LossScaleOptimizer
        )
        # What is clipped is the mean of the steps, which nobody sees here.
        self._counts_clips = self.clip is not None and steps is None
        self._state = None
        if self.is_scaled or self._counts_clips:
            with guard_variables():
                self._state = tf.Variable([0.0] * 6, trainable=False)

    @property
    def changes(self):
        """Whether `read` says something else as the training goes on."""
        return self._state is not None

    def reset(self):
        """Makes all as it was before the first step."""
        if self._state is not None:
            self._state.assign(tf.zeros_like(self._state))

    def store(self, loss_scale, scale, halves, is_counted):
        """Adds the ops that follow one step.

        Args:
            loss_scale: Scalar float32 tensor, the loss scale of this step.
            scale: What of it is still in the gradients.
            halves: Half the squared norm of each gradient, scalar tensors.
            is_counted: Whether these are the gradients that are clipped.
        """
        if self._state is None:
            return
        known = tf.unstack(self._state)
        if self.is_scaled:
            last, held = known[_SCALE], known[_HELD]
            is_known = last > 0
            # More than one step may have been skipped since.
            fall = tf.math.log(
                tf.where(is_known, last, loss_scale) / loss_scale
            )
            drops = tf.round(tf.maximum(fall, 0.0) / tf.math.log(2.0))
            known[_SCALE] = loss_scale
            known[_DROPS] += drops
            known[_LATE] += drops * held
            holds = is_known & tf.equal(drops, 0.0)
            known[_HELD] = tf.maximum(held, tf.cast(holds, tf.float32))
        is_counted = is_counted and self._counts_clips and bool(halves)
        if is_counted and self.clip[0] != CLIPS[2]:
            squares = 2.0 * tf.stack(halves) / tf.square(scale)
            total = tf.reduce_sum(squares)
            largest = total
            if self.clip[0] == CLIPS[1]:
                largest = tf.reduce_max(squares)
            is_clipped = largest > tf.square(tf.cast(self.clip[1], tf.float32))
            self._count(known, tf.math.is_finite(total), is_clipped)
        self._state.assign(tf.stack(known))

    def store_largest(self, largest):
        """Adds what a step that is recorded shows of `clipvalue`.

        Args:
            largest: Float32 tensor, each gradient's largest absolute value.
        """
        if self._counts_clips and self.clip[0] == CLIPS[2]:
            known = tf.unstack(self._state)
            most = tf.reduce_max(largest)
            self._count(known, tf.math.is_finite(most), most > self.clip[1])
            self._state.assign(tf.stack(known))

    @staticmethod
    def _count(known, is_finite, is_clipped):
        known[_STEPS] += tf.cast(is_finite, tf.float32)
        known[_CLIPPED] += tf.cast(is_finite & is_clipped, tf.float32)

    def read(self):
        """Returns what is known by now, a dict.

        Returns:
            `num_skipped`: updates that the loss scale has left out;
            `num_late`: those of them after a step that it had not;
            `clipped_share`: 0 to 1. Each is `None` where it does not apply.
        """
        known = {"num_skipped": None, "num_late": None, "clipped_share": None}
        if self._state is None:
            return known
        found = self._state.numpy()
        if self.is_scaled:
            known["num_skipped"] = int(found[_DROPS])
            known["num_late"] = int(found[_LATE])
        if found[_STEPS]:
            known["clipped_share"] = float(found[_CLIPPED] / found[_STEPS])
        return known
