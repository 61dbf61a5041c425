"""Step 1: a step that several replicas take together."""

import tensorflow as tf


def num_replicas(model):
    """Returns how many replicas train a model at once, an int.

    Args:
        model: A Keras model.
    """
    strategy = getattr(model, "distribute_strategy", None)
    return getattr(strategy, "num_replicas_in_sync", 1)


def is_measured_here():
    """Returns whether the replica that runs here is the one that measures.

    Its gradients are those of the step once the replicas have added them
    up, so one of them is enough.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return True
    number = replica.replica_id_in_sync_group
    return 0 == (
        tf.get_static_value(number) if tf.is_tensor(number) else number
    )
