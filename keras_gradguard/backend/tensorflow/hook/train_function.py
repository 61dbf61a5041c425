"""The variables and shapes that a made train function was traced for.

Keras traces a step once: `trainable` that is changed later means nothing to
it until the next `compile`. The guarded step is traced anew and must not see
the change either, nor one of `run_eagerly`. Nor must it be traced for one size
of a batch where that at hand is for any: the last bits of a sum may differ.
"""

import functools
import weakref

import keras
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.functions import (
    Functions,
    functions_entered,
    specs_traced,
)
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.tracing.restore import is_examining
from keras_gradguard.model.layers import (
    functions_of,
    is_default_step,
    layers_of,
    own_weights,
    runs_eagerly,
)
from keras_gradguard.model.optimizers import variables_of

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
    functions = functions_of(train_function)
    if not functions or not isinstance(iterator, tf.data.Iterator):
        return getattr(iterator, "element_spec", None)
    known = [*specs_traced(functions[0]), *noted]
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
    (function, *_) = functions_of(guarded)
    known = specs_traced(function)
    return _traced_for(known, spec) == spec


def tracer_of(train_function, spec, iterator):
    """Returns what traces a function for more than it will get first.

    Args:
        train_function: The guarded one.
        spec: What `note_run` has returned.
        iterator: What it gets.

    Returns:
        A function without arguments, `None` if there is nothing to do.
    """
    if not isinstance(spec, tf.data.IteratorSpec):
        return None
    if spec == tf.type_spec_from_value(iterator):
        return None
    (function, *_) = functions_of(train_function)
    return functools.partial(function.get_concrete_function, spec)


def is_traced(model):
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
        for function in functions_of(train_function)
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


def holds_its_step(model, train_function):
    """Returns whether a train function is compiled, and keeps its step.

    That of an older Keras looks `train_step` up whenever it is traced; one of
    the user's own may do anything.

    Args:
        model: The model that it trains.
        train_function: What `made_anew` has returned.
    """
    made = getattr(model.make_train_function, "__func__", None)
    return (
        made is keras.Model.make_train_function
        and hasattr(model, "_make_function")
        and bool(functions_of(train_function))
    )


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
    if not is_known or not is_default_step(model):
        return []
    known = set(map(id, variables_of(optimizer)))
    changed = []
    for layer in layers_of(model):
        own = own_weights(layer)
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


# Watching slows Python down, and eager steps are many.
_NUM_WATCHED = 3
# More of them are made anew in each step.
_MOST_FUNCTIONS = 100


class OwnStep:
    """Runs a step whose functions keep nothing of the guard.

    Args:
        is_due: Returns whether the step that runs is recorded.
        guarded: Has `barrier`, the fault barrier of the training that runs.
    """

    def __init__(self, is_due, guarded):
        self._guarded = guarded
        self._is_due = is_due
        self._functions = Functions(guarded)
        self._num_eager, self._is_watching = 0, True

    def run(self, step, data):
        """Runs the step on a batch.

        Args:
            step: The `train_step`.
            data: The batch.
        """
        if is_examining():
            # Who looks gives the functions traces of their own.
            return step(data)
        apart = ()
        with self._guarded.barrier.guarded():
            apart = (self._functions.apart(self._watch()),)
        with self._guarded.barrier.around(*apart):
            return step(data)

    def _watch(self):
        """Returns whether functions that the next step calls get known."""
        if tf.executing_eagerly():
            self._num_eager += 1
            is_early = self._num_eager <= _NUM_WATCHED
            self._is_watching = is_early or self._is_due()
            if len(self._functions) > _MOST_FUNCTIONS:
                self._functions.forget(is_called=False)
        else:
            # A trace may lead to tensors of the graph that it was made for.
            self._functions.forget()
            self._is_watching = True
        return self._is_watching

    def is_apart(self):
        """Returns whether ops that are added here are gone after the step.

        They are not in a function that is called for the first time while
        nobody watches.
        """
        if self._is_watching or tf.executing_eagerly():
            return True
        entered = functions_entered(OwnStep.run.__code__)
        return self._functions.are_known(entered)
