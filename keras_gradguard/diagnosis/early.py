"""Step 4: functions that hold stand-ins for weights, not the weights.

Keras builds a layer by a call that computes shapes only. A weight that does
not exist yet gives the value of its initializer there; a `tf.function` that
is traced in that call keeps the value for good.
"""

import ast
import re

from keras_gradguard.diagnosis import source, variable_internals
from keras_gradguard.diagnosis.edges import Context
from keras_gradguard.diagnosis.reached import tree_of


def early_place(graph, layer, variable):
    """Finds the function that a weight has a stand-in in.

    Args:
        graph: The graph of a step that does not read the variable.
        layer: The layer that owns the variable.
        variable: A Keras variable.

    Returns:
        The `Place` of the function, at its `tf.function` where it has one,
        or `None` if no function in the graph holds a stand-in.
    """
    scope = re.compile(rf"{re.escape(layer.name)}(_\d+)?")
    for context in Context(graph).everything():
        if context.parent is None:
            continue
        for op in context.graph.get_operations():
            if not any(map(scope.fullmatch, op.name.split("/"))):
                continue
            if all(tuple(variable.shape) != _shape(t) for t in op.outputs):
                continue
            frames = variable_internals.frames_to_stand_in(source.frames_of(op))
            found = [f for f in frames if source.is_users(f[0])]
            if found:
                return _head(*found[0])
    return None


def _shape(tensor):
    return tuple(tensor.shape) if tensor.shape.rank is not None else None


def _head(file, line, function):
    """The line where the function that holds a line begins."""
    around = [
        node
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef)
        and node.name == function
        and node.lineno <= line <= node.end_lineno
    ]
    if around:
        marks = around[-1].decorator_list
        named = [m for m in marks if "function" in ast.unparse(m)]
        line = (named or [around[-1]])[0].lineno
    return source.place(file, line, function)
