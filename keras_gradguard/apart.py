"""Step 2: a gradient for our own use, apart from the one that is applied.

TensorFlow's graph optimizer joins a product with the products that follow,
and a sum with the sums, if nothing else uses it: `rate * (a * b)` is computed
as `(rate * a) * b`, to other last bits. Measuring `a * b` would forbid that,
so the product is made once more, for the measurement alone.
"""

import tensorflow as tf

_GROUPS = ({"Mul"}, {"Add", "AddV2", "AddN"})
# A longer chain is measured as it is.
_MOST_OPS = 16


def apart(gradients, anchor):
    """Returns gradients of the same values that others do not depend on.

    Args:
        gradients: Tensors, `tf.IndexedSlices` or `None`.
        anchor: A tensor of the same graph; as the copies wait for it they
            are not taken for the same ops again.
    """
    if tf.executing_eagerly():
        return gradients
    with tf.control_dependencies([anchor]):
        return [_apart(gradient) for gradient in gradients]


def _apart(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        values = _apart(gradient.values)
        shape = gradient.dense_shape
        return tf.IndexedSlices(values, gradient.indices, shape)
    if not isinstance(gradient, tf.Tensor):
        return gradient
    here = tf.compat.v1.get_default_graph()
    for group in _GROUPS:
        if gradient.graph is here and gradient.op.type in group:
            chain = _chain(gradient.op, group)
            return gradient if chain is None else _copied(gradient.op, chain)
    return gradient


def _chain(op, group):
    """The ops of one group behind an op; `None` if there are too many."""
    found = [op]
    for known in found:
        found += [
            tensor.op
            for tensor in known.inputs
            if tensor.op.type in group and tensor.op not in found
        ]
        if len(found) > _MOST_OPS:
            return None
    return found


def _copied(op, chain):
    inputs = [
        _copied(tensor.op, chain) if tensor.op in chain else tensor
        for tensor in op.inputs
    ]
    if op.type == "Mul":
        return tf.raw_ops.Mul(x=inputs[0], y=inputs[1])
    if op.type == "AddN":
        return tf.raw_ops.AddN(inputs=inputs)
    return tf.raw_ops.AddV2(x=inputs[0], y=inputs[1])
