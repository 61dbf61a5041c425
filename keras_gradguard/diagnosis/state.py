"""Values carried through a variable: assigned here, read again there."""

import collections

import tensorflow as tf

from keras_gradguard.diagnosis.edges import Edge, Value


class Writers:
    """The ops that store a value in a variable, by variable.

    Args:
        root: The root `Context`.
    """

    def __init__(self, root):
        self._stores = collections.defaultdict(list)
        for context in root.everything():
            for number, op in enumerate(context.graph.get_operations()):
                if op.outputs:
                    continue
                for handle in _resources(op):
                    key = _origin(Value(context, handle)).key
                    self._stores[key].append((context, number, op))

    def edges(self, value):
        """Returns the closed edges from what a read value was stored as."""
        op = value.tensor.op
        found = []
        for handle in _resources(op):
            key = _origin(Value(value.context, handle)).key
            for context, number, store in self._stores.get(key, ()):
                same = context is value.context
                if same and number > _number(op):
                    continue
                found += [
                    Edge(
                        Value(context, source),
                        context,
                        store,
                        is_open=False,
                        is_state=True,
                    )
                    for source in store.inputs
                    if source.dtype != tf.resource
                ]
        return found


def _resources(op):
    return [t for t in op.inputs if t.dtype == tf.resource]


def _number(op):
    return op.graph.get_operations().index(op)


def _origin(value):
    """Follows a handle out of function bodies to where it comes from."""
    while True:
        op = value.tensor.op
        if op.type == "Identity":
            value = Value(value.context, op.inputs[0])
            continue
        origins = value.context.origins(value.tensor)
        if not origins:
            return value
        value = origins[0]
