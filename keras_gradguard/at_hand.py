"""Step 1: what the training step at hand trains, and for which shapes.

Keras traces a step once: `trainable` that is changed later means nothing to
it until the next `compile`. The guarded step is traced anew and must not see
the change either, nor one of `run_eagerly`. Nor must it be traced for one size
of a batch where that at hand is for any: the last bits of a sum may differ.
"""

import weakref

import tensorflow as tf

from keras_gradguard.diagnosis import function_internals, keras_internals
from keras_gradguard.diagnosis.eagerness import runs_eagerly
from keras_gradguard.patch import replaced

# Of each train function, what it would have been traced for.
_run = weakref.WeakKeyDictionary()


def note_run(train_function, iterator):
    """Notes that a guarded step runs in place of a train function.

    Args:
        train_function: That which it stands for.
        iterator: What it gets.

    Returns:
        The spec of the trace that would run, else what the batches are like;
        `None` if nobody knows.
    """
    noted = _run.setdefault(train_function, [])
    functions = keras_internals.functions_of(train_function)
    if not functions or not isinstance(iterator, tf.data.Iterator):
        return getattr(iterator, "element_spec", None)
    known = [*function_internals.specs_traced(functions[0]), *noted]
    spec = _traced_for(known, tf.type_spec_from_value(iterator))
    if spec not in known:
        noted.append(spec)
    return spec


def _traced_for(known, spec):
    """What TensorFlow traces for a spec when it has seen others."""
    if not known or spec in known:
        return spec
    seen = tf.function(lambda iterator: None, reduce_retracing=True)
    for other in known:
        seen.get_concrete_function(other)
    trace = seen.get_concrete_function(spec)
    return trace.structured_input_signature[0][0]


def is_run_as(guarded, spec, train_function):
    """Returns whether batches find the trace that they would in Keras.

    Args:
        guarded: A guarded train function that other batches have run in.
        spec: What `note_run` has returned for these.
        train_function: That which it stands for.
    """
    if not isinstance(spec, tf.data.IteratorSpec):
        # It has seen all that was to be seen.
        return not _is_traced(train_function)
    (function, *_) = keras_internals.functions_of(guarded)
    known = function_internals.specs_traced(function)
    return _traced_for(known, spec) == spec


def trace_for(train_function, spec, iterator):
    """Traces a train function for more than what it gets first.

    Args:
        train_function: The guarded one.
        spec: What `note_run` has returned.
        iterator: What it gets.
    """
    if not isinstance(spec, tf.data.IteratorSpec):
        return
    if spec != tf.type_spec_from_value(iterator):
        (function, *_) = keras_internals.functions_of(train_function)
        function.get_concrete_function(spec)


def has_run(model):
    """Returns whether the step of a compiled graph is at hand already.

    Args:
        model: A compiled Keras model whose `train_function` is made.
    """
    plain = model.train_function
    if runs_eagerly(model):
        return False
    return plain in _run or _is_traced(plain)


def _is_traced(train_function):
    return any(
        function.experimental_get_tracing_count() > 0
        for function in keras_internals.functions_of(train_function)
    )


def made_anew(model, train_step):
    """Returns a train function like that at hand, of another step.

    Args:
        model: A compiled Keras model whose `train_function` is made; it
            stays as it is.
        train_step: The step.
    """
    plain, run_eagerly = model.train_function, model.run_eagerly
    try:
        model.run_eagerly = runs_eagerly(model)
        with replaced(model, "train_step", train_step):
            model.make_train_function(force=True)
        return model.train_function
    finally:
        model.train_function, model.run_eagerly = plain, run_eagerly


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
