"""What looks at a step, by the framework that Keras runs on.

Only TensorFlow so far. What is named here is all that the rest of the
package asks a backend for by itself; imports wait until they are needed.
"""


def step_evidence(model, data, seen=None):
    """Returns what looks at a training step, see `graph.trace`.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it, or `None`.
        seen: The `Trace` of a step that was looked at while it ran.
    """
    from keras_gradguard.backend.tensorflow.tracing.evidence import (
        StepEvidence,
    )

    return StepEvidence(model, data, seen)


def loss_evidence(loss, y_true, y_pred):
    """Returns what looks at a loss alone, see `graph.trace`.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors, or a nest of them.
        y_pred: Its predictions, alike.
    """
    from keras_gradguard.backend.tensorflow.tracing.evidence import (
        LossEvidence,
    )

    return LossEvidence(loss, y_true, y_pred)
