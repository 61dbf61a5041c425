"""What a traced training step has shown."""

import dataclasses

import numpy as np

LOSS, ADDED, REGULARIZER = "loss", "add_loss", "regularizer"
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One term of a loss.

    Args:
        name: Its name, unique in its step.
        kind: `"loss"`, `"add_loss"` or `"regularizer"`.
        values: The tensors that it consists of: one, or that of each weight
            that has a regulariser.
    """

    name: str
    kind: str
    values: tuple


@dataclasses.dataclass
class Run:
    """What one run of a loss has shown.

    Args:
        values: The values per sample, flat, in float64.
        bools: Key of each condition on a user's line -> its values.
        stopped: Key of each `StopGradient` -> its output.
        path: Where the Python code went; empty unless asked for.
    """

    values: np.ndarray
    bools: dict
    stopped: dict
    path: list = dataclasses.field(default_factory=list)


class NotAFunction(Exception):
    """The same prediction does not always give the same values."""


class LossFailed(Exception):
    """The loss itself raises, see `__cause__`."""


@dataclasses.dataclass
class LossCall:
    """One call of a `keras.losses.Loss`.

    Args:
        name: Name of the loss.
        y_pred: The prediction that it got.
        value: What it returned.
        function: What computes it: a function, or a method of a subclass.
        loss: The loss.
        y_true: The targets that it got.
        is_inner: Whether another loss or a layer has called it.
    """

    name: str
    y_pred: object
    value: object
    function: object
    loss: object = None
    y_true: object = None
    is_inner: bool = False


@dataclasses.dataclass
class AddLossCall:
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
class TapeCall:
    """One `tape.gradient(target, sources)`.

    Args:
        targets: The tensors that were differentiated.
        sources: The variables asked for.
        recorded: `(graph, first, last)` op numbers that the tape has seen.
        caller: `(file, function)` of the frame that asked.
        seeds: The gradients that the targets begin with; empty for ones.
    """

    targets: list
    sources: list
    recorded: list
    caller: tuple
    seeds: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class ReadOut:
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
class Trace:
    """What one traced training step has shown.

    Args:
        graph: The graph of the step.
        targets: A `TapeCall` for each loss that is differentiated.
        losses: The calls of Keras losses, in order.
        extra_losses: Values of regularisers and `add_loss` terms.
        added: The `AddLossCall`s.
        terms: The `LossTerm`s that the loss is the sum of.
        names: Name of each term of the loss, by the id of its tensor.
        layers: `(graph id, first op, last op, path)`, inner layers later.
        batch: Placeholders of the batch.
        outputs: What the model returned; empty for a custom `train_step`.
        called: The losses and layers that were called.
        read: The `ReadOut`s of an eager step.
        functions: What keeps the graphs of the functions alive.
        error: The exception that ended the trace, or `None`.
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
    read: list = dataclasses.field(default_factory=list)
    functions: object = None
    error: Exception | None = None

    def layer_of(self, op, number):
        """Returns the path of the innermost layer that made op `number`."""
        inner = None
        for graph, first, last, path in self.layers:
            if graph == id(op.graph) and first <= number < last:
                inner = path
        return inner


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step to ask about.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it, `None` if it is not known.
        variables: The trainable variables that the step should train.
        paths: Their paths, unique, in the same order.
        evidence: What looks at the step, each way once: the steps of several
            variables share it. A backend gives an object with

            - `seen`: the `Trace` of a step that was looked at while it ran,
              or `None`.
            - `traced()`: a `Trace` in which nothing runs, with its `error`
              if the step cannot be traced; `seen` where there is one.
            - `traced_with_python_control_flow()`: the same, with the Python
              control flow of the user's losses and layers made into ops.
            - `rerun(variables, may_fail=False)`: the `Trace` of the eager
              step run once more, `None` where it does not run eagerly or,
              unless it `may_fail`, fails.
            - `recorded(weights=())`: the step run op by op, with the values
              of each, from `(variable, value)` pairs or those of now.
            - `loss_run(call)`: the loss of a `LossCall` as a function of its
              prediction (`run`, `base`, `start`, ...), or `None`.
            - `failure(error, any_error=False)`: a `Finding` of what an
              exception says of the gradient, or `None`.
            - `read_tensors(error, place)`: the tensors of `traced()` that
              the line names at which it failed.
            - `lost_elements(variables, paths)`: `(lost, kept)` counts of
              gradient elements by path, for float16.
            - `measured_reaches(variables, known, weights, number)`: a
              `LossReach` with norms for each term of the loss.
    """

    model: object
    data: object
    variables: tuple
    paths: tuple[str, ...]
    evidence: object = None
