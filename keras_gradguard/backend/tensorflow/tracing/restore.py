"""A look at a model that runs it, and leaves it as it was."""

import contextlib
import threading

import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import no_op_seen
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.internals.python_hooks import (
    calls_profiled,
)
from keras_gradguard.backend.tensorflow.internals.randomness import (
    random_state_kept,
)
from keras_gradguard.backend.tensorflow.internals.variables import (
    WRITERS,
    content_of,
    has_value,
    is_handle,
    put,
)
from keras_gradguard.model.layers import (
    layers_of,
    losses_kept,
    names_of_keras,
)
from keras_gradguard.model.optimizers import applied_variables, optimizers_of

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    str,
    tuple,
    tf.Tensor,
    np.ndarray,
    np.generic,
)


@contextlib.contextmanager
def attributes_kept(model):
    """Puts the attributes of a model and its layers back as they were.

    Those count that hold numbers, texts or tensors, or lists and dicts; not
    those that Keras itself gives a layer.

    Args:
        model: A Keras model.
    """
    own = [(vars(layer), _own_of(layer)) for layer in layers_of(model)]
    copies = [
        (value, value.copy())
        for _, values in own
        for value in values.values()
        if isinstance(value, (list, dict))
    ]
    try:
        yield
    finally:
        for names, values in own:
            for name, value in values.items():
                is_changed = names.get(name) is not value
                if is_changed and isinstance(value, _PLAIN):
                    names[name] = value
        for value, copy in copies:
            _put_back(value, copy)


def attributes_of(model):
    """Returns what tells whether a step has noted something since.

    Args:
        model: A Keras model or layer; its layers are looked at, and the
            losses of a model.

    Returns:
        A dict from the `id` of a layer or loss to its attributes.
    """
    given = tf.nest.flatten(getattr(model, "loss", None))
    losses = [loss for loss in given if hasattr(loss, "__dict__")]
    found = {id(layer): (layer, _added_to(layer)) for layer in layers_of(model)}
    found |= {id(loss): (loss, vars(loss)) for loss in losses}
    return {
        key: (
            getattr(one, "built", None),
            # Keras sets some attributes to `None` in the first call.
            {n: _sign(v) for n, v in values.items() if v is not None},
        )
        for key, (one, values) in found.items()
    }


def _sign(value):
    """What tells a value of an attribute from another one."""
    if isinstance(value, (list, tuple, dict)):
        value = len(value)
    is_known = isinstance(value, (bool, int, float, str))
    return value if is_known else id(value)


def plain_variables(model):
    """Returns the `tf.Variable`s that a model and its layers hold.

    Args:
        model: A Keras model; its attributes are looked at, and lists and
            dicts among them.
    """
    found = {}
    for layer in layers_of(model):
        for value in _own_of(layer).values():
            items = value.values() if isinstance(value, dict) else [value]
            for item in items:
                parts = item if isinstance(item, (list, tuple)) else [item]
                for part in parts:
                    if isinstance(part, tf.Variable):
                        found[id(part)] = part
    return list(found.values())


def _own_of(layer):
    """Attributes that Keras has not given a layer which is made by now."""
    return _added_to(layer) if layer.built else {}


def _added_to(layer):
    known = vars(layer).items()
    return {k: v for k, v in known if k not in names_of_keras()}


def _put_back(value, copy):
    """Gives a list or a dict its content; Keras watches their methods."""
    kind = list if isinstance(value, list) else dict
    if kind is list:
        before, now = copy, value
    else:
        before = [part for item in copy.items() for part in item]
        now = [part for item in value.items() for part in item]
    if list(map(id, before)) == list(map(id, now)):
        return
    kind.clear(value)
    (list.extend if kind is list else dict.update)(value, copy)


_thread = threading.local()


def is_examining():
    """Returns whether a scratch trace runs in this thread."""
    return getattr(_thread, "examining", False)


@contextlib.contextmanager
def examining():
    """Lets no `GradGuardLoss` check itself while the block runs."""
    before = is_examining()
    _thread.examining = True
    try:
        yield
    finally:
        _thread.examining = before


@contextlib.contextmanager
def applied_nowhere(model):
    """Lets no optimizer of a model change a weight.

    Args:
        model: A Keras model.
    """
    with contextlib.ExitStack() as stack:
        for optimizer in optimizers_of(model):
            stack.enter_context(replaced(optimizer, "apply", _nothing))
        yield


@contextlib.contextmanager
def updates_caught(optimizers, catch):
    """Lets optimizers change no weight; their updates are handed over.

    Args:
        optimizers: Keras optimizers.
        catch: Called as `catch(optimizer, variables, gradients)`, with two
            lists, in place of each `optimizer.apply`.
    """
    with contextlib.ExitStack() as stack:
        for optimizer in optimizers:
            apply = _handing_over(optimizer, catch)
            stack.enter_context(replaced(optimizer, "apply", apply))
        yield


def _handing_over(optimizer, catch):
    @tf.autograph.experimental.do_not_convert
    def apply(grads, trainable_variables=None):
        variables = applied_variables(optimizer, trainable_variables)
        catch(optimizer, variables, list(grads))

    return apply


@tf.autograph.experimental.do_not_convert
def _nothing(*arguments, **named):
    """Stands in for `optimizer.apply`."""


# A code object is slow to hash; these live as long as TensorFlow.
_WRITERS = frozenset(map(id, WRITERS))


@contextlib.contextmanager
def writes_undone():
    """Puts back each variable that this thread writes to in the block.

    Those that are made in the block keep what they get. A profiler of the
    user's is not disturbed: then nothing is watched.
    """
    watch = _Watch()
    try:
        with calls_profiled(watch):
            yield
    finally:
        with tf.init_scope():
            for handle, value in watch.kept.values():
                if value is not None:
                    put(handle, value)


class _Watch:
    """A profile function that keeps a value before its first write."""

    def __init__(self):
        self.kept = {}

    def __call__(self, frame, event, _):
        if event == "call" and id(frame.f_code) in _WRITERS:
            for value in list(frame.f_locals.values()):
                self._keep(value)

    def _keep(self, value):
        if not is_handle(value) or id(value) in self.kept:
            return
        with tf.init_scope(), no_op_seen():
            # There is none where the block itself has made the variable.
            content = content_of(value)
        self.kept[id(value)] = value, content


@contextlib.contextmanager
def state_restored(model, with_optimizers=True):
    """Puts variables, attributes and random state back as they were.

    Args:
        model: A Keras model; its weights, metrics, random seeds and
            optimizers are kept, also after an exception.
        with_optimizers: Whether those are kept too; a forward pass does not
            need the room.
    """
    variables = [*model.variables, *model.metrics_variables]
    variables += plain_variables(model)
    for optimizer in optimizers_of(model) if with_optimizers else ():
        variables += optimizer.variables
    values = [
        (variable, tf.identity(variable))
        for variable in variables
        if has_value(variable)
    ]
    with (
        random_state_kept(),
        losses_kept(model),
        attributes_kept(model),
        examining(),
    ):
        try:
            with writes_undone():
                yield
        finally:
            for variable, value in values:
                variable.assign(value)
