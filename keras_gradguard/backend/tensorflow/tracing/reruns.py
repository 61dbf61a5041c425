"""A training step, or its losses, run once more outside of the training.

The gradient of each term of a loss is taken by a tape of its own. The tape
tells how much of each term enters the total, so `loss_weights`, and whatever
else the step makes of a term, are in the norms without being asked for.
"""

import collections
import contextlib

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import (
    functions_run_eagerly,
)
from keras_gradguard.backend.tensorflow.internals.functions import Functions
from keras_gradguard.backend.tensorflow.internals.graphs import guard_variables
from keras_gradguard.backend.tensorflow.internals.patch import replaced
from keras_gradguard.backend.tensorflow.internals.variables import num_elements
from keras_gradguard.backend.tensorflow.tracing.loss_terms import loss_terms_of
from keras_gradguard.backend.tensorflow.tracing.observer import (
    Observer,
    frames_here,
)
from keras_gradguard.backend.tensorflow.tracing.restore import (
    state_restored,
    updates_caught,
)
from keras_gradguard.backend.tensorflow.tracing.seen import Seen
from keras_gradguard.backend.tensorflow.tracing.step import run_forward
from keras_gradguard.graph.trace import LOSS, OTHER
from keras_gradguard.model.layers import (
    is_default_step,
    layers_of,
    runs_eagerly,
    state_of,
)
from keras_gradguard.model.optimizers import named_optimizers
from keras_gradguard.records.health import LossReach
from keras_gradguard.records.norms import MISSING, UNMEASURED
from keras_gradguard.source.frames import is_own_fault, user_place

# The range of float16 below its smallest normal number is 2**10.
_FACTORS = (2.0**4, 2.0**8, 2.0**12)


def lost_elements(model, batch, variables, paths):
    """Counts the gradient elements that are lost, and those that are not.

    Args:
        model: A compiled Keras model; it is left as it was.
        batch: The batch as `train_step` gets it.
        variables: The trainable variables to count for.
        paths: The path of each.

    Returns:
        A dict of `(lost, kept)` by path of the variable; empty where the
        step does not ask its optimizer for the loss scale.
    """
    named = dict(zip(map(id, variables), paths, strict=True))
    own = _gradients_at(model, batch, named, 1.0)
    lost = {path: tf.zeros_like(found) for path, found in own.items()}
    for factor in _FACTORS:
        for path, found in _gradients_at(model, batch, named, factor).items():
            if path in own:
                lost[path] |= found & ~own[path]
    return {
        path: (_count(lost[path]), _count(found)) for path, found in own.items()
    }


# Loss scales that neither lose small gradients nor overflow if used twice.
_SCALES = (16.0, 64.0)
_MOST_CALLS = 4


def loss_scaling(model, batch):
    """Measures how the gradients of an update grow with the loss scale.

    Args:
        model: A compiled Keras model, with a step of its own and an optimizer
            with a loss scale that is built; it is left as it was.
        batch: The batch as `train_step` gets it.

    Returns:
        `(power, calls)`: the power of the loss scale in what `apply` gets, 1
        where it is as it should be, and a `(power, place)` for each call of
        `scale_loss`: that of a factor of its result, and the `Place` that
        calls. `None` where it cannot be measured.
    """
    optimizer = model.optimizer
    variable = optimizer.dynamic_scale
    scale, calls, seen = optimizer.scale_loss, [], []

    def catch(_, variables, gradients):
        seen.extend(gradients)

    def size(value, number=None, factor=1.0):
        """The norm of what `apply` gets; of one call the result grows."""
        calls.clear()
        seen.clear()

        def scale_loss(loss):
            calls.append(user_place(frames_here()))
            grown = factor if len(calls) - 1 == number else 1.0
            return scale(loss) * grown

        with (
            state_restored(model),
            functions_run_eagerly(),
            replaced(optimizer, "scale_loss", scale_loss),
            updates_caught([optimizer], catch),
        ):
            variable.assign(value)
            model.train_step(batch)
        squares = [
            2.0 * tf.nn.l2_loss(tf.cast(tf.convert_to_tensor(g), tf.float64))
            for g in seen
            if g is not None
        ]
        return float(tf.sqrt(tf.add_n(squares))) if squares else 0.0

    low, high = _SCALES
    known = size(low)
    places = tuple(calls)
    if not places or len(places) > _MOST_CALLS:
        return None
    grown = [size(high)]
    grown += [size(low, n, high / low) for n in range(len(places))]
    if not all(0.0 < one < np.inf for one in (known, *grown)):
        return None
    powers = np.log(np.divide(grown, known)) / np.log(high / low)
    return float(powers[0]), list(
        zip(map(float, powers[1:]), places, strict=True)
    )


def _count(flags):
    return int(tf.math.count_nonzero(flags))


def _gradients_at(model, batch, paths, factor):
    """Which elements are not zero, by path; those not finite are left out."""
    seen = []
    optimizer = model.optimizer
    scale, asked = optimizer.scale_loss, []

    def scale_loss(loss):
        asked.append(loss)
        return scale(loss) * factor

    def catch(_, variables, gradients):
        seen.extend(zip(variables, gradients, strict=True))

    def run():
        seen.clear()
        model.train_step(batch)
        return [_flags(gradient) for _, gradient in seen]

    is_eager, eagerly = runs_eagerly(model), contextlib.nullcontext()
    if not is_default_step(model):
        # Functions of the user's are neither to keep this step nor to hide it.
        is_eager, eagerly = True, functions_run_eagerly()
    function = run if is_eager else tf.function(run, autograph=False)
    with (
        state_restored(model),
        eagerly,
        replaced(optimizer, "scale_loss", scale_loss),
        updates_caught([optimizer], catch),
    ):
        flags = function()
    if not asked:
        return {}
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


def measured_reaches(
    model, batch, variables, known=(), weights=(), number=None
):
    """Measures what each term gives each variable, outside the training.

    Args:
        model: A compiled model with Keras' own training step.
        batch: The very batch.
        variables: The trainable variables to measure for.
        known: What `reach.reaches_of` returned, empty if it is not known.
        weights: `(variable, value)` pairs of the state to run with; by
            default that of now.
        number: Number of updates before that state.

    Returns:
        A list of `LossReach` with norms; `known` if the step cannot be run.
    """
    shown = []
    has_other = any(one.name == OTHER for one in known)

    def run():
        addends, figures = _run(model, batch, variables, has_other)
        shown[:] = addends
        return figures

    def run_once():
        if runs_eagerly(model) or not has_loops(model):
            return run()
        # Called by itself, TensorFlow would warn of a trace in every `fit`.
        return tf.function(run, autograph=False).get_concrete_function()()

    with state_restored(model, with_optimizers=False):
        for variable, value in weights:
            variable.assign(value)
        try:
            figures = run_once().numpy()
        except Exception as error:
            if is_own_fault(error):
                raise
            # It ran in the training; what is known of it is all there is.
            return list(known)
    ways = {(one.name, one.kind): one.reaches for one in known}
    return [
        _reach(*named, row, ways.get(named), number)
        for named, row in zip(shown, figures, strict=True)
    ]


def state_size(model):
    """Returns the bytes of all that a forward pass of a model reads."""
    return sum(
        num_elements(variable) * tf.as_dtype(variable.dtype).size
        for variable in state_of(model)
    )


def has_loops(model):
    """Returns whether op by op is slower than to trace three passes anew.

    Args:
        model: A Keras model.
    """
    return any(
        isinstance(layer, keras.layers.RNN) for layer in layers_of(model)
    )


def _reach(name, kind, figures, ways, number):
    # A loop or a branch gives zeros where it is cut: only the graph tells.
    ways = (True,) * len(figures) if ways is None else ways
    reaches = tuple(
        bool(figure != MISSING and way)
        for figure, way in zip(figures, ways, strict=True)
    )
    norms = tuple(
        float(figure) if is_reached else None
        for figure, is_reached in zip(figures, reaches, strict=True)
    )
    return LossReach(name, kind, reaches, norms, number)


def _run(model, batch, variables, has_other):
    """Returns `(name, kind)` of each term and the norms of its gradients."""
    trace, variables = Seen(None), list(variables)
    with tf.GradientTape(persistent=True) as tape:
        with Observer(trace, lambda: (None, 0)).looking():
            run_forward(model, batch, trace)
    ((total,),) = (call.targets for call in trace.targets)
    scale = tf.constant(1.0)
    if model.optimizer is not None:
        # Small gradients of float16 are lost without it.
        scale = model.optimizer.scale_loss(scale)
    one = tf.broadcast_to(tf.cast(scale, total.dtype), tf.shape(total))

    def norms(gradients):
        return tf.stack([_norm(gradient, scale) for gradient in gradients])

    addends = loss_terms_of(model, trace)
    named = [(addend.name, addend.kind) for addend in addends]
    # Asked for together: a tape does not look beyond what it is asked for.
    values = [value for addend in addends for value in addend.values]
    seeds = iter(tape.gradient(total, values, output_gradients=one))
    rows, entered = [], []
    for addend in addends:
        pairs = [(value, next(seeds)) for value in addend.values]
        pairs = [(value, seed) for value, seed in pairs if seed is not None]
        entered += pairs
        rows.append(norms(_gradients(tape, pairs, variables)))
    if has_other:
        # By linearity: the whole without the terms that are known.
        seeds = [(total, one), *((value, -seed) for value, seed in entered)]
        rows.append(norms(_gradients(tape, seeds, variables)))
        named.append((OTHER, LOSS))
    return named, tf.stack(rows)


def _norm(gradient, scale):
    if gradient is None:
        return tf.constant(MISSING, tf.float64)
    values = tf.convert_to_tensor(gradient)
    if values.dtype.is_complex:
        values = tf.abs(values)
    # No square leaves the range of float64.
    square = 2.0 * tf.nn.l2_loss(tf.cast(values, tf.float64))
    return tf.sqrt(square) / tf.cast(scale, tf.float64)


def _gradients(tape, seeds, variables):
    if not seeds:
        return [None] * len(variables)
    values, seeds = map(list, zip(*seeds, strict=True))
    return tape.gradient(values, variables, output_gradients=seeds)


def run_once(model, data, statistics, columns):
    """Runs the step of a model, and measures its gradients.

    Args:
        model: A compiled Keras model; it is left as it was.
        data: The batch as `train_step` gets it, tensors.
        statistics: Adds the ops that measure gradients, see
            `capture.statistics`.
        columns: The names of what it finds.

    Returns:
        `(applied, error)`: a list of `(variables, statistics, None, name)`
        for each call of `apply`, see `TrainingLog.measure`, and the exception
        that ended the step, or `None`.
    """
    called, lost, frames = [], [], {}
    optimizers = named_optimizers(model)
    names = {id(optimizer): name for name, optimizer in optimizers}
    is_own = not is_default_step(model)
    apart = Functions().apart() if is_own else contextlib.nullcontext()

    def catch(optimizer, variables, gradients):
        name = names[id(optimizer)]
        scale = tf.cast(optimizer.scale_loss(tf.constant(1.0)), tf.float32)
        if gradients and all(gradient is None for gradient in gradients):
            lost.append((variables, name))
        measured = statistics(gradients, variables, scale)
        with guard_variables():
            # Out of a function no tensor leads.
            shape = [len(variables), len(columns)]
            empty = tf.fill(shape, UNMEASURED)
            figures = tf.Variable(empty, trainable=False)
        figures.assign(measured)
        called.append((variables, figures, name))

    def run():
        called.clear()
        try:
            model.train_step(data)
        except Exception as error:
            frames[error] = error.__traceback__
            raise

    run = run if model.run_eagerly else tf.function(run, autograph=False)
    caught = updates_caught([held for _, held in optimizers], catch)
    with state_restored(model), apart, caught:
        try:
            run()
        except Exception as error:
            # On the way out TensorFlow drops the frames of its own.
            error.__traceback__ = frames.get(error, error.__traceback__)
            if is_own_fault(error):
                raise
            # Keras would have ended at the first of these.
            return [_no_gradient(*known, columns) for known in lost[:1]], error
    applied, num_calls = [], collections.Counter()
    for variables, figures, name in called:
        values = figures.numpy()
        # TensorFlow traces a function once more if its first call makes
        # variables: what stood in the draft has not run.
        if not values.size or (values != UNMEASURED).any():
            num_calls[name] += 1
            number = num_calls[name]
            name = f"{name}#{number}" if number > 1 else name
            applied.append((variables, values, None, name))
    return applied, None


def _no_gradient(variables, name, columns):
    """What `run_once` returns of an update without any gradient."""
    shape = [len(variables), len(columns)]
    return variables, np.full(shape, MISSING, np.float32), None, name
