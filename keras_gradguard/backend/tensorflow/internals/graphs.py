"""The private TensorFlow internals of graphs and tapes, each once.

`tests/internals/test_graphs.py` names what a new release has changed.
"""

import contextlib
import inspect

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.eager import context, record
from tensorflow.python.framework import ops
from tensorflow.python.ops import resource_variable_ops
from tensorflow.python.util import tf_stack

TAPE_START = tf.GradientTape._push_tape.__code__
TAPE_STOP = tf.GradientTape._pop_tape.__code__
FUNCTION_CALL = inspect.unwrap(
    type(tf.function(lambda: None)).__call__
).__code__

# What Keras says where no variable gets a gradient.
NO_GRADIENTS = "No gradients provided for any variable."

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_IFS = ("If", "StatelessIf")
_CASES = ("Case", "StatelessCase")
_WHILES = ("While", "StatelessWhile")


def new_graph(name):
    """Returns an empty function graph that may capture outer tensors."""
    return tf.__internal__.FuncGraph(name)


def num_ops(graph):
    """Returns how many ops `graph` holds, without listing them."""
    return graph.version


def rarely(condition, run, result):
    """Adds a branch that costs next to nothing while it is not taken.

    TensorFlow spreads a conditional into the ops of both branches, each of
    which the executor then visits in every step. This one stays one op.

    Args:
        condition: Boolean scalar tensor.
        run: Makes the ops of the branch; returns a tensor.
        result: What `run` returns, for the other case: a tensor, or a
            Python value.

    Returns:
        A tensor.
    """
    found = tf.cond(
        condition, run, lambda: tf.identity(tf.convert_to_tensor(result))
    )
    if not tf.executing_eagerly():
        op = found.op if found.op.type in _IFS else found.op.inputs[0].op
        op._set_attr(
            "_lower_using_switch_merge", attr_value_pb2.AttrValue(b=False)
        )
    return found


def runtime_here():
    """Returns what a function that is traced belongs to.

    Who sets up TensorFlow anew in a process, as Keras' own tests do to get
    other devices, gets another one.
    """
    return context.context()


def graph_here():
    """Returns the graph that ops are added to now, `None` when eager."""
    if tf.executing_eagerly():
        return None
    return tf.compat.v1.get_default_graph()


def fetched_around(batch):
    """Returns what an iterator has fetched in the graph around this one.

    Args:
        batch: Tensors that this graph was given, at least one.

    Returns:
        The tensors of the outer graph that they stand for; `None` where that
        is not plain to see.
    """
    outer = getattr(graph_here(), "outer_graph", None)
    operations = [] if outer is None else outer.get_operations()
    fetches = [op for op in operations if op.type == "IteratorGetNext"]
    if len(fetches) != 1 or not batch:
        return None
    outputs = fetches[0].outputs
    is_same = len(outputs) == len(batch) and all(
        known.dtype == own.dtype and known.shape.is_compatible_with(own.shape)
        for known, own in zip(outputs, batch, strict=True)
    )
    return list(outputs) if is_same else None


def function_graph_here():
    """Returns the graph of the function that is traced now.

    Branches and loops have graphs of their own, which lie within it.
    """
    graph = tf.compat.v1.get_default_graph()
    while type(graph) is not tf.__internal__.FuncGraph:
        graph = graph.outer_graph
    return graph


def outermost(graph):
    """Returns the graph of the outermost function that a graph lies in.

    Args:
        graph: A `FuncGraph`.
    """
    while isinstance(graph.outer_graph, tf.__internal__.FuncGraph):
        graph = graph.outer_graph
    return graph


def variables_read(graph):
    """Returns the variables that a function reads, or one that it calls.

    Args:
        graph: The `FuncGraph` of a function that was traced.
    """
    found = (reference() for reference in graph._weak_variables)
    return [variable for variable in found if variable is not None]


def is_within(graph):
    """Returns whether ops are now added to a graph, or inside of it.

    Args:
        graph: A graph, or `None`.
    """
    here = graph_here()
    while here is not None and here is not graph:
        here = getattr(here, "outer_graph", None)
    return here is graph and graph is not None


def plain_variable(_, **arguments):
    """Makes a `tf.Variable` that no function or strategy knows of."""
    return resource_variable_ops.default_variable_creator_v2(None, **arguments)


@contextlib.contextmanager
def guard_variables():
    """Lets variables of the guard's own be made while a step is traced.

    `tf.function` traces a step twice if its first trace makes variables the
    usual way; and a strategy would make one for each replica.
    """
    with tf.init_scope(), tf.variable_creator_scope(plain_variable):
        yield


not_converted = tf.autograph.experimental.do_not_convert


def is_eager():
    """Returns whether ops run as they are called."""
    return tf.executing_eagerly()


def eager_tape():
    """Returns a new gradient tape; `None` where a graph is made."""
    if not tf.executing_eagerly():
        return None
    return tf.GradientTape(watch_accessed_variables=False)


def tape_is_active():
    """Returns whether any gradient tape is recording in this thread."""
    return record.could_possibly_record()


def runs_functions(op):
    """Returns whether an op calls functions: a call, branch or loop."""
    return op.type in (*_CALLS, *_IFS, *_CASES, *_WHILES)


def calls_function(graph):
    """Returns whether a graph, or a branch or a loop in it, calls a function.

    Args:
        graph: A `FuncGraph`.
    """
    for op in graph.get_operations():
        if op.type in _CALLS:
            return True
        _, graphs = bodies_of(op) or (None, ())
        if any(map(calls_function, graphs)):
            return True
    return False


def bodies_of(op):
    """Returns the function bodies that a control-flow op runs.

    Args:
        op: A `tf.Operation`.

    Returns:
        `("call" | "branch" | "while", [graph, ...])`, or `None` if `op` is
        an ordinary op or its body is not at hand. A while op has its
        condition first, its body second.
    """
    if op.type in _CALLS:
        kind, names = "call", [op.get_attr("f").name]
    elif op.type in _IFS:
        names = [op.get_attr(n).name for n in ("then_branch", "else_branch")]
        kind = "branch"
    elif op.type in _CASES:
        kind, names = "branch", [f.name for f in op.get_attr("branches")]
    elif op.type in _WHILES:
        kind = "while"
        names = [op.get_attr(n).name for n in ("cond", "body")]
    else:
        return None
    graphs = [_body(op.graph, name) for name in names]
    return None if None in graphs else (kind, graphs)


def _body(graph, name):
    while graph is not None:
        function = graph._get_function(name)
        if function is not None:
            # A function of TensorFlow 1 (CTC has some) has no graph to walk.
            return getattr(function, "graph", None)
        graph = getattr(graph, "outer_graph", None)
    return None


def custom_gradient_name(op):
    """Returns the registry name of an op's own gradient, or `None`."""
    try:
        return op.get_attr("_gradient_op_type").decode()
    except ValueError:
        return None


def custom_gradient_function(op):
    """Returns the registered function of an op's own gradient, or `None`."""
    name = custom_gradient_name(op)
    return None if name is None else ops.gradient_registry.lookup(name)


def handles_of(variable):
    """Returns the resource handles behind a Keras or TensorFlow variable."""
    return [part.handle for part in replica_variables(variable)]


def replica_variables(variable):
    """Returns the variables of the replicas, or the one there is."""
    value = variable.value if hasattr(variable, "path") else variable
    return getattr(value, "values", None) or (value,)


def stack_here():
    """Returns the frames that run now, the outermost first.

    Those of AutoGraph's generated code stand at the user's own lines.
    """
    return tf_stack.extract_stack()
