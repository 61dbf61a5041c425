"""What a step has shown, and what it is asked.

The diagnosis asks the evidence of a step, and nothing else, to look at it. A
backend gives an object that keeps each answer:

- `seen`: the `Trace` of a step that was looked at while it ran, or `None`.
- `is_blind`: whether nothing was seen of such a step.
- `traced()`: a `Trace` in which nothing has run, with its `error` if the step
  cannot be traced; `seen` where there is one.
- `traced_with_python_control_flow()`: the same `Trace`, with the Python control
  flow of the user's losses and layers made into ops.
- `rerun(variables, may_fail=False)`: the `Trace` of the eager step run once
  more; `None` where it does not run eagerly or, unless it `may_fail`, fails.
- `recorded(weights=(), instead=None)`: the `Trace` of the step run op by op,
  each tensor with its values; from `(variable, value)` pairs or the weights of
  now. With `instead`, a dict of numbers to types of ops and a number, that
  number is put in place of what these ops give that is not finite.
- `loss_calls()`: the `LossCall`s of the step, run once more but not op by op.
- `heads()`: what the losses of that run got, a list of a `HeadCall` for each.
- `adapted(graph)`: a graph of the backend's as a `Graph`.
- `step_graph(graph, known)`: the step around such a graph, a `Graph`; `None` if
  it reads no trainable variable that is not `known`.
- `loss_run(call)`: the loss of a `LossCall` as a function of its
  prediction, or `None` if it is no function of that alone.
- `failure(error, any_error=False)`: a `Finding` of what an exception says of
  the gradient, or `None`.
- `read_tensors(error, place)`: a list of the `Tensor`s of `traced()` that the
  line names at which it failed.
- `lost_elements(variables, paths)`: a dict of path -> `(lost, kept)`, how many
  elements of the gradient float16 loses.
- `loss_scaling()`: `(power, calls)`, the power of the loss scale in what the
  optimizer gets, and a `(power, Place)` for each call of `scale_loss`, that of
  a factor of its result; `None` where it cannot be measured.
- `measured_reaches(variables, known=(), weights=(), number=None)`: a list of a
  `LossReach` with norms for each term of the loss.
- `state_size()`: the bytes of all that a forward pass reads; `has_loops()`:
  whether the model has a loop, which takes long to trace.
- `renewed()`: evidence of the same step with nothing known of it, for code that
  was changed; `runs_eagerly`, `has_data` (whether the batch is one of values),
  `is_tracing` (whether a function is traced at this time, so that no value can
  be read) and `is_shared` (whether other replicas run the same code then).
- `is_backward_crash(error)`: whether an exception may come from a Python
  function that is cut inside.

The evidence of a loss alone has the `loss`, `traced()`, `rerun()`,
`recorded(instead=None)`, `loss_run()`, `renewed()` and `failure(...)`, without
arguments of a step, and `state_kept()`, a context that undoes what the loss
writes.

The run of a loss has `start`, `targets`, `base`, `gradients`, `is_double`,
`has_prints` (arrays, a `Run` and bools), `graph`, `tensors`, `value`,
`dependent`, `conditions`, `handmade` (what was recorded), and `run(prediction,
forced=None, with_path=False)`, `is_hidden(op)`, `is_dependent(native)`,
`gradients_of(tensor)`, `op_alone(op)`.
"""

import dataclasses
import functools

import numpy as np

from keras_gradguard.graph.ops import Graph
from keras_gradguard.records.finding import Place

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
        steps: Key of each step function on a user's line -> its output.
        path: Where the Python code went; empty unless asked for.
    """

    values: np.ndarray
    bools: dict
    stopped: dict
    steps: dict = dataclasses.field(default_factory=dict)
    path: list = dataclasses.field(default_factory=list)


class NotAFunction(Exception):
    """The same prediction does not always give the same values."""


class LossFailed(Exception):
    """The loss itself raises, see `__cause__`."""


@dataclasses.dataclass(frozen=True)
class LossCall:
    """One call of a `keras.losses.Loss`.

    Args:
        name: Name of the loss; that of its term once the terms are known.
        value: The `Tensor` that it returned, `None` if that is not known.
        y_pred: The `Tensor` of the prediction that it got, likewise.
        function: What computes it: a function, or a method of a subclass.
        loss_name: The name that the loss itself has.
        is_inner: Whether another loss or a layer has called it.
        native: What the backend knows it by.
    """

    name: str
    value: object
    y_pred: object = None
    function: object = None
    loss_name: str | None = None
    is_inner: bool = False
    native: object = None


@dataclasses.dataclass(frozen=True)
class HeadCall:
    """What one call of a `keras.losses.Loss` got, as numbers.

    Args:
        name: Name of the loss.
        loss: The loss.
        y_true: Its targets, an array; `None` for a nest of them.
        y_pred: Its prediction, alike.
        logits: What Keras takes from behind the prediction, or `None`.
        has_logits: Whether the loss gets at them.
        is_cast: Whether the loss casts the prediction first.
        weights: The weights of the samples, an array or `None`.
        is_masked: Whether Keras masks some of the prediction.
        is_inner: Whether another loss or a layer has called it.
        is_eager: Whether the step of the training runs eagerly.
    """

    name: str
    loss: object
    y_true: object
    y_pred: object
    logits: object = None
    has_logits: bool = False
    is_cast: bool = False
    weights: object = None
    is_masked: bool = False
    is_inner: bool = False
    is_eager: bool = False


@dataclasses.dataclass(frozen=True)
class TapeCall:
    """One question for the gradients of some targets.

    Args:
        targets: The `Tensor`s that were differentiated.
        sources: The variables asked for.
        caller: The user's line that asked, a `Place`.
        taped: Numbers of the ops of the step's graph that were recorded for
            it, `None` if all were.
        seeds: The gradients that the targets begin with; empty for ones.
    """

    targets: tuple
    sources: tuple = ()
    caller: Place = Place()
    taped: frozenset | None = None
    seeds: tuple = ()

    def is_about(self, variable):
        """Returns whether it asks for a variable's gradient."""
        own = getattr(variable, "value", variable)
        return not self._asked.isdisjoint((id(variable), id(own)))

    @functools.cached_property
    def _asked(self):
        return frozenset(map(id, self.sources))


@dataclasses.dataclass(frozen=True)
class ReadOut:
    """A tensor whose plain numbers were taken out of the framework.

    Args:
        tensor: The `Tensor`.
        cause: What asked for them, as a finding names it.
        place: The user's line, a `Place`.
    """

    tensor: object
    cause: str
    place: object


@dataclasses.dataclass
class Trace:
    """What one step, or one loss alone, has shown.

    Args:
        graph: The `Graph` of its ops.
        targets: A `TapeCall` for each loss that is differentiated.
        losses: The `LossCall`s, in order.
        terms: The `LossTerm`s that the loss is the sum of.
        named: `(Tensor, name)` of each loss and term, as far as known.
        batch: `(part, Tensor)`s: `"x"`, `"y"` or `"sample_weight"`.
        outputs: What the model returned, or the predictions of a loss alone;
            empty for a custom `train_step`.
        called: The losses and layers that were called.
        returned: Returns `(layer, Tensors)` of each call of a layer.
        read: The `ReadOut`s of an eager step.
        applied: `(variables, gradients)` of each update of a recorded step.
        callers: The `Place` that asked for each of them.
        error: The exception that ended it, or `None`.
    """

    graph: object
    targets: list = dataclasses.field(default_factory=list)
    losses: list = dataclasses.field(default_factory=list)
    terms: list = dataclasses.field(default_factory=list)
    named: list = dataclasses.field(default_factory=list)
    batch: list = dataclasses.field(default_factory=list)
    outputs: list = dataclasses.field(default_factory=list)
    called: list = dataclasses.field(default_factory=list)
    returned: object = tuple
    read: list = dataclasses.field(default_factory=list)
    applied: list = dataclasses.field(default_factory=list)
    callers: list = dataclasses.field(default_factory=list)
    error: Exception | None = None


class NothingSeen(LookupError):
    """A step of a loop was not looked at, and cannot be run once more."""


def nothing_seen():
    """Returns a `Trace` that answers no question."""
    return Trace(Graph(), error=NothingSeen())


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step to ask about.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it, `None` if it is not known.
        variables: The trainable variables that the step should train.
        paths: Their paths, unique, in the same order.
        evidence: What looks at the step, each way once; see the head of this
            module. The steps of several variables share it.
        answers: What was asked of the traced step before; it is filled.
    """

    model: object
    data: object
    variables: tuple
    paths: tuple[str, ...]
    evidence: object = None
    answers: dict = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def answer(self, ask, *given):
        """Returns what a function says of the step; asks it once a trace.

        Args:
            ask: The function, called as `ask(step, *given)` for the same
                variables and the same `given` once.
            given: What else it takes, hashable.
        """
        key = (ask, tuple(map(id, self.variables)), given)
        if key not in self.answers:
            self.answers[key] = ask(self, *given)
        return self.answers[key]
