"""Step 4 of 5: whether the training step at hand runs op by op.

Keras makes it once: `run_eagerly` that is set later means nothing to it until
the next `compile`.
"""

from keras_gradguard.diagnosis.keras_internals import functions_of


def runs_eagerly(model):
    """Returns whether the training step of a model runs eagerly.

    Args:
        model: A Keras model. Where its step is not made yet, or not by Keras
            itself, what it was compiled with counts.
    """
    step = model.train_function
    if functions_of(step):
        return False
    module = getattr(step, "__module__", None) or ""
    return module.startswith("keras.") or bool(model.run_eagerly)
