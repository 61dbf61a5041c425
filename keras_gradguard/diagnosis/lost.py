"""Step 4: which elements of a gradient float16 rounds to zero.

The step is taken again on the same batch with a larger loss scale: what was
zero and is a number then, was lost.
"""

import contextlib

import tensorflow as tf

from keras_gradguard.diagnosis import eager_internals, keras_internals
from keras_gradguard.diagnosis.eagerness import runs_eagerly
from keras_gradguard.diagnosis.untouched import untouched
from keras_gradguard.patch import replaced

# The range of float16 below its smallest normal number is 2**10.
_FACTORS = (2.0**4, 2.0**8, 2.0**12)


def lost_elements(step):
    """Counts the gradient elements that are lost, and those that are not.

    Args:
        step: The `Step`, its `data` a batch. Its model is left as it was.

    Returns:
        A dict of `(lost, kept)` by path of the variable; empty where the
        step does not ask its optimizer for the loss scale.
    """
    own = _gradients(step, 1.0)
    lost = {path: tf.zeros_like(found) for path, found in own.items()}
    for factor in _FACTORS:
        for path, found in _gradients(step, factor).items():
            if path in own:
                lost[path] |= found & ~own[path]
    return {
        path: (_count(lost[path]), _count(found)) for path, found in own.items()
    }


def _count(flags):
    return int(tf.math.count_nonzero(flags))


def _gradients(step, factor):
    """Which elements are not zero, by path; those not finite are left out."""
    model, seen = step.model, []
    optimizer = model.optimizer
    scale, asked = optimizer.scale_loss, []

    def scale_loss(loss):
        asked.append(loss)
        return scale(loss) * tf.cast(factor, loss.dtype)

    def apply(grads, trainable_variables=None):
        variables = trainable_variables
        if variables is None:
            variables = keras_internals.variables_of(optimizer)
        seen.extend(zip(variables, grads, strict=True))

    def run():
        seen.clear()
        model.train_step(step.data)
        return [_flags(gradient) for _, gradient in seen]

    is_eager, eagerly = runs_eagerly(model), contextlib.nullcontext()
    if not keras_internals.is_default_step(model):
        # Functions of the user's are neither to keep this step nor to hide it.
        is_eager, eagerly = True, eager_internals.functions_run_eagerly()
    function = run if is_eager else tf.function(run, autograph=False)
    with (
        untouched(model),
        eagerly,
        replaced(optimizer, "scale_loss", scale_loss),
        replaced(optimizer, "apply", apply),
    ):
        flags = function()
    if not asked:
        return {}
    paths = dict(zip(map(id, step.variables), step.paths, strict=True))
    return {
        paths[id(variable)]: found
        for (variable, _), found in zip(seen, flags, strict=True)
        if found is not None and id(variable) in paths
    }


def _flags(gradient):
    """Where a gradient is a number other than zero; `None` if unknown."""
    if gradient is None or isinstance(gradient, tf.IndexedSlices):
        return None
    return tf.math.is_finite(gradient) & (gradient != 0)
