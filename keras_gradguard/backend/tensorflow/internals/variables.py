"""The private TensorFlow and Keras internals of variables, each once.

`tests/internals/test_graphs.py` names what a new release has changed.
"""

import contextlib
import inspect

import keras
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.ops import (
    gen_array_ops,
    gen_resource_variable_ops,
    gen_state_ops,
    gen_stateful_random_ops,
    gen_training_ops,
    resource_variable_ops,
)

from keras_gradguard.backend.tensorflow.internals.graphs import (
    new_graph,
    plain_variable,
    replica_variables,
)

# Each write to a variable, also that of `tf.random.Generator`, passes one.
WRITERS = frozenset(
    inspect.unwrap(function).__code__
    for module in (
        gen_array_ops,
        gen_resource_variable_ops,
        gen_state_ops,
        gen_stateful_random_ops,
        gen_training_ops,
    )
    for name, function in vars(module).items()
    if inspect.isfunction(function)
    and name.startswith(("assign", "resource_", "rng_", "stateful_"))
    and not name.endswith("_eager_fallback")
    and "gather" not in name
)


def is_handle(value):
    """Returns whether a value is the handle of a variable, and eager."""
    return (
        tf.is_tensor(value)
        and getattr(value, "dtype", None) == tf.resource
        and hasattr(value, "numpy")
    )


def content_of(handle):
    """Returns the value behind a handle, `None` if it has none yet.

    Args:
        handle: An eager tensor.
    """
    data = resource_variable_ops.get_eager_safe_handle_data(handle)
    kinds = data.shape_and_type
    # A read before the first write gives an empty value, and no error.
    if not (kinds and gen_resource_variable_ops.var_is_initialized_op(handle)):
        return None
    kind = tf.as_dtype(kinds[0].dtype)
    return gen_resource_variable_ops.read_variable_op(handle, kind)


def read(variable):
    """Returns the value of a variable, past all that may be made of it.

    Neither Keras nor a tape is asked, which takes most of the time while a
    step is traced.

    Args:
        variable: A Keras or TensorFlow variable.
    """
    own, *others = replica_variables(variable)
    if others or not hasattr(own, "handle"):
        return tf.convert_to_tensor(variable)
    return gen_resource_variable_ops.read_variable_op(own.handle, own.dtype)


def numbers_in(variable):
    """Returns the value of a variable as an array.

    `variable.numpy()` takes three times as long, which a training of small
    steps would notice.

    Args:
        variable: A `tf.Variable` that is on one device.
    """
    return gen_resource_variable_ops.read_variable_op(
        variable.handle, variable.dtype
    ).numpy()


def put(handle, value):
    """Gives a variable a value, as fast as may be.

    Args:
        handle: The handle of a variable that is on one device.
        value: A tensor of its type.
    """
    gen_resource_variable_ops.assign_variable_op(handle, value)


@contextlib.contextmanager
def made_outside():
    """Lets variables be made outside of the function that is traced.

    Other ops are added to a graph that nobody runs.
    """

    def make(inside, **arguments):
        first = arguments.get("initial_value")
        if tf.is_tensor(first) and not hasattr(first, "numpy"):
            value = tf.get_static_value(first)
            if value is None:
                return inside(**arguments)
            arguments["initial_value"] = value
        with tf.init_scope():
            return plain_variable(None, **arguments)

    graph = new_graph("made_outside").as_default()
    with graph, tf.variable_creator_scope(make):
        yield


@contextlib.contextmanager
def made_inside():
    """Lets variables begin with a tensor of the graph that is made.

    As in `tf.function`; what runs that graph gives them their value. All
    others have theirs at once.
    """
    with tf.variable_creator_scope(variable_inside):
        yield


def variable_inside(outside, **arguments):
    """Makes a variable, see `made_inside`."""
    first = arguments.get("initial_value")
    if not tf.is_tensor(first) or hasattr(first, "numpy"):
        return outside(**arguments)
    return polymorphic_function.UnliftedInitializerVariable(**arguments)


def is_in_draft(variable):
    """Returns whether a variable was made while a function is traced."""
    return any(
        isinstance(part, polymorphic_function.UnliftedInitializerVariable)
        for part in replica_variables(variable)
    )


def has_value(variable):
    """Returns whether a variable has been given a value by now.

    The slots of an optimizer have none once the step that was to make them
    has failed while it was traced.

    Args:
        variable: A Keras or TensorFlow variable.
    """
    with tf.init_scope():
        return all(
            bool(part.is_initialized())
            for part in replica_variables(variable)
            if hasattr(part, "is_initialized")
        )


def frames_to_stand_in(frames):
    """Returns the frames that led to the stand-in for a weight.

    A Keras variable without a value gives that of its initializer.

    Args:
        frames: `(file, line, function)`s of an op, the outermost first.

    Returns:
        Those between the innermost `tf.function` that was traced and the
        variable, none if the op is no stand-in in a function.
    """
    getter = keras.Variable.value.fget.__code__.co_filename
    tracer = polymorphic_function.__file__
    begin = end = None
    for number, (file, _, function) in enumerate(frames[:-1]):
        if file == tracer:
            begin = number + 1
        is_getter = (file, function) == (getter, "value")
        if is_getter and frames[number + 1][2] != "_maybe_autocast":
            end = number
    return frames[begin:end] if begin is not None and end is not None else []


def num_updates(optimizer):
    """Returns how many updates an optimizer has made, an int."""
    if not tf.executing_eagerly():
        with tf.init_scope():
            return num_updates(optimizer)
    (count, *_) = replica_variables(optimizer.iterations)
    # One that adds up several gradients computes it.
    is_variable = hasattr(count, "handle")
    return int(numbers_in(count) if is_variable else count.numpy())


def num_elements(variable):
    """Returns how many elements a variable has, an int."""
    number = 1
    for length in variable.shape:
        number *= length
    return number
