"""What an observer has seen of a step, as TensorFlow and Keras have it."""

import dataclasses

from keras_gradguard.records.finding import Place


@dataclasses.dataclass
class SeenLoss:
    """One call of a `keras.losses.Loss`.

    Args:
        name: Name of the loss; that of its term once the terms are known.
        y_pred: The prediction that it got.
        value: What it returned.
        function: What computes it: a function, or a method of a subclass.
        loss: The loss.
        y_true: The targets that it got.
        is_inner: Whether another loss or a layer has called it.
        sample_weight: The weights of the samples that it got.
    """

    name: str
    y_pred: object
    value: object
    function: object
    loss: object = None
    y_true: object = None
    is_inner: bool = False
    sample_weight: object = None


@dataclasses.dataclass
class SeenAddLoss:
    """One `layer.add_loss(values)`.

    Args:
        layer: The layer.
        values: The tensors that it adds.
        is_activity: Whether Keras called it for an activity regulariser.
    """

    layer: object
    values: list
    is_activity: bool


@dataclasses.dataclass
class SeenTape:
    """One `tape.gradient(target, sources)`.

    Args:
        targets: The tensors that were differentiated.
        sources: The variables asked for.
        recorded: `(graph, first, last)` op numbers that the tape has seen.
        caller: The user's line that asked, a `Place`.
        seeds: The gradients that the targets begin with; empty for ones.
    """

    targets: list
    sources: list
    recorded: list
    caller: Place = Place()
    seeds: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class SeenReadOut:
    """A tensor whose plain numbers were taken out of TensorFlow.

    Args:
        tensor: The tensor.
        cause: What asked for them, as a finding names it.
        place: The user's line, a `Place`.
    """

    tensor: object
    cause: str
    place: object


@dataclasses.dataclass
class Seen:
    """What an observer has seen of one step.

    Args:
        graph: The `FuncGraph` of the step, `None` for eager ops.
        targets: A `SeenTape` for each loss that is differentiated.
        losses: The calls of Keras losses, in order.
        extra_losses: Values of regularisers and `add_loss` terms.
        added: The `SeenAddLoss`es.
        terms: The `LossTerm`s that the loss is the sum of.
        names: Name of each term of the loss, by the id of its tensor.
        layers: `(graph id, first op, last op, path)`, inner layers later.
        batch: Tensors of the batch.
        outputs: What the model returned; empty for a custom `train_step`.
        called: The losses and layers that were called.
        returned: `(layer, value)` of each call of a layer.
        read: The `SeenReadOut`s of an eager step.
        functions: What keeps the graphs of the functions alive.
        error: The exception that ended the step, or `None`.
    """

    graph: object
    targets: list = dataclasses.field(default_factory=list)
    losses: list = dataclasses.field(default_factory=list)
    extra_losses: list = dataclasses.field(default_factory=list)
    added: list = dataclasses.field(default_factory=list)
    terms: list = dataclasses.field(default_factory=list)
    names: dict = dataclasses.field(default_factory=dict)
    layers: list = dataclasses.field(default_factory=list)
    batch: list = dataclasses.field(default_factory=list)
    outputs: list = dataclasses.field(default_factory=list)
    called: list = dataclasses.field(default_factory=list)
    returned: list = dataclasses.field(default_factory=list)
    read: list = dataclasses.field(default_factory=list)
    functions: object = None
    error: Exception | None = None
