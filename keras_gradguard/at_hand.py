"""Step 1: what the training step at hand trains.

Keras traces a step once: `trainable` that is changed later means nothing to
it until the next `compile`. The guarded step is traced anew and must not see
the change either.
"""

import weakref

from keras_gradguard.diagnosis import keras_internals

_run = weakref.WeakSet()


def note_run(train_function):
    """Notes that a guarded step has run in place of a train function."""
    _run.add(train_function)


def has_run(model):
    """Returns whether the step of a compiled graph is at hand already.

    Args:
        model: A compiled Keras model whose `train_function` is made.
    """
    plain = model.train_function
    if model.run_eagerly:
        return False
    return plain in _run or keras_internals.has_been_traced(plain)


def changed_since(model):
    """Returns what has changed in `trainable` since the step was traced.

    Args:
        model: A model whose step is at hand.

    Returns:
        `(instance, "_trainable", value)` of each layer and variable that was
        otherwise, as far as the optimizer tells; none for a step of the
        user's own, which may leave variables out.
    """
    optimizer = getattr(model, "optimizer", None)
    is_known = optimizer is not None and optimizer.built
    if not is_known or not keras_internals.is_default_step(model):
        return []
    known = set(map(id, keras_internals.variables_of(optimizer)))
    changed = []
    for layer in keras_internals.layers_of(model):
        own = keras_internals.own_weights(layer)
        trained = [v for v in layer.variables if id(v) in known]
        if not trained and not own:
            continue
        parts = [(layer, bool(trained)), *((v, id(v) in known) for v in own)]
        changed += [
            (part, "_trainable", value)
            for part, value in parts
            if part.trainable != value
        ]
    return changed


def without(unknown, gradients, variables):
    """Returns gradients and variables but for those of some variables.

    Args:
        unknown: The variables to leave out.
        gradients: Their gradients and others.
        variables: They and others.
    """
    ids = set(map(id, unknown))
    kept = [n for n, v in enumerate(variables) if id(v) not in ids]
    return [gradients[n] for n in kept], [variables[n] for n in kept]
