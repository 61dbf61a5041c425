"""What a step or a loss shows; each way of looking at it is taken once.

The head of `graph.trace` says what each method answers.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from keras_gradguard.backend.tensorflow.internals.eager import (
    functions_run_eagerly,
)
from keras_gradguard.backend.tensorflow.internals.graphs import (
    outermost,
    replica_variables,
    variables_read,
)
from keras_gradguard.backend.tensorflow.tracing.failures import (
    failure_finding,
    is_backward_crash,
    read_tensors,
)
from keras_gradguard.backend.tensorflow.tracing.graphs import (
    trace_of_graph,
    traced_graph,
)
from keras_gradguard.backend.tensorflow.tracing.loss_run import (
    LossRun,
    state_kept,
)
from keras_gradguard.backend.tensorflow.tracing.recorder import (
    record_loss,
    record_step,
)
from keras_gradguard.backend.tensorflow.tracing.reruns import (
    has_loops,
    loss_scaling,
    lost_elements,
    measured_reaches,
    state_size,
)
from keras_gradguard.backend.tensorflow.tracing.step import (
    losses_of,
    rerun_loss,
    rerun_step,
    trace_loss,
    trace_step,
)
from keras_gradguard.graph.trace import (
    HeadCall,
    LossCall,
    LossFailed,
    NotAFunction,
    NothingSeen,
)
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.model.losses import is_masked, logits_behind


class _Evidence:
    """What is known of a step and of a loss alike."""

    def __init__(self, seen=None):
        self.seen = seen
        self._kept = {}

    def _once(self, key, look):
        if key not in self._kept:
            self._kept[key] = look()
        return self._kept[key]

    @property
    def is_blind(self):
        """Whether nothing of a step that cannot be traced was seen."""
        return self.seen is not None and isinstance(
            self.seen.error, NothingSeen
        )

    def traced(self):
        """Returns the `Trace`; the one that was seen if there is one."""
        return self.seen or self._once("traced", self._trace)

    def failure(self, error, any_error=False):
        """Reads what an exception says, see `failures.failure_finding`."""
        return failure_finding(error, any_error)

    def read_tensors(self, error, place):
        """Returns what a line that failed names, see `failures`."""
        graph = self.traced().graph
        found = map(graph.tensor, read_tensors(error, place))
        return [t for t in found if t is not None and t.op.graph is graph]


class StepEvidence(_Evidence):
    """What one training step shows.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it, tensors or their specs;
            `None` where nothing can be run.
        seen: The `Trace` of a step that was looked at while it ran; nothing
            is traced then.
    """

    _functions = contextlib.nullcontext

    def __init__(self, model, data, seen=None):
        super().__init__(seen)
        self.model = model
        self.data = data

    def renewed(self):
        """Returns the evidence of the same step, with nothing known of it.

        The bodies of `tf.function`s become part of its trace: what they keep
        is the code from before, and may not become that of a moment.
        """
        other = StepEvidence(self.model, self.data)
        other._functions = functions_run_eagerly
        return other

    @property
    def runs_eagerly(self):
        """Whether the step need not be traced."""
        return runs_eagerly(self.model)

    @property
    def is_shared(self):
        """Whether other replicas run the same Python code at this time."""
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.executing_eagerly() and num_replicas > 1

    @property
    def is_tracing(self):
        """Whether a function is traced now, in which nothing can be read."""
        return not tf.executing_eagerly()

    @property
    def has_data(self):
        """Whether the batch is one of values, not of specs."""
        return self.data is not None and all(
            map(_has_values, keras.tree.flatten(self.data))
        )

    def _trace(self):
        with self._functions():
            return trace_of_graph(trace_step(self.model, self.data))

    def traced_with_python_control_flow(self):
        """Returns the `Trace` in which AutoGraph has converted the calls."""
        return self._once(
            "converted",
            lambda: trace_of_graph(
                trace_step(self.model, self.data, self.traced().called)
            ),
        )

    def rerun(self, variables, may_fail=False):
        """Runs an eager step once more, see `step.rerun_step`."""
        key = ("rerun", may_fail, *map(id, variables))
        return self._once(
            key, lambda: rerun_step(self.model, self.data, variables, may_fail)
        )

    def recorded(self, weights=(), instead=None):
        """Returns the step op by op, see `recorder.record_step`."""
        if weights or instead is not None:
            return record_step(self.model, self.data, weights, instead)
        return self._once(
            "recorded", lambda: record_step(self.model, self.data)
        )

    def loss_calls(self):
        """Returns the `LossCall`s of the step, run but not op by op."""
        return [
            LossCall(
                seen.name,
                None,
                function=seen.function,
                loss_name=seen.loss.name,
                is_inner=seen.is_inner,
                native=seen,
            )
            for seen in self._losses()
        ]

    def _losses(self):
        return self._once("losses", lambda: losses_of(self.model, self.data))

    def heads(self):
        """Returns what the losses of the step got, `HeadCall`s."""
        return [_head_call(seen, self.runs_eagerly) for seen in self._losses()]

    def adapted(self, graph):
        """Returns a `FuncGraph` of the step as a `Graph`."""
        return traced_graph(graph)

    def step_graph(self, graph, known):
        """Returns the step around a graph if it reads what nobody knows.

        Args:
            graph: The `FuncGraph` of an update of the step.
            known: The variables that Keras knows.

        Returns:
            The `Graph` of the outermost function; `None` if each float
            variable that it reads, and that is not frozen, is known.
        """
        whole = outermost(graph)
        own = {id(part) for v in known for part in replica_variables(v)}
        is_unknown = any(
            variable.trainable and variable.dtype.is_floating
            for variable in variables_read(whole)
            if id(variable) not in own
        )
        return traced_graph(whole) if is_unknown else None

    def loss_run(self, call):
        """Returns the `LossRun` of a recorded call, `None` if it is none."""
        seen = call.native
        return _loss_run(seen.loss, seen.y_true, seen.y_pred)

    def lost_elements(self, variables, paths):
        """Counts what float16 loses, see `reruns.lost_elements`."""
        return lost_elements(self.model, self.data, variables, paths)

    def loss_scaling(self):
        """Measures the use of the loss scale, see `reruns.loss_scaling`."""
        return loss_scaling(self.model, self.data)

    def measured_reaches(self, variables, known=(), weights=(), number=None):
        """Measures each term of the loss, see `reruns.measured_reaches`."""
        return measured_reaches(
            self.model, self.data, variables, known, weights, number
        )

    def state_size(self):
        """Returns the bytes of all that a forward pass reads."""
        return state_size(self.model)

    def has_loops(self):
        """Returns whether the model has a loop."""
        return has_loops(self.model)

    def is_backward_crash(self, error):
        """Returns whether a Python function was cut, see `failures`."""
        return is_backward_crash(error)


class LossEvidence(_Evidence):
    """What one loss shows, without a model.

    Args:
        loss: A `keras.losses.Loss`.
        y_true: Its targets: tensors, or a nest of them.
        y_pred: Its predictions, alike.
    """

    _functions = contextlib.nullcontext

    def __init__(self, loss, y_true, y_pred):
        super().__init__()
        self.loss = loss
        self._given = y_true, y_pred

    def renewed(self):
        """Returns the evidence of the same loss, with nothing known of it."""
        other = LossEvidence(self.loss, *self._given)
        other._functions = functions_run_eagerly
        return other

    def _seen(self):
        with self._functions():
            return self._once(
                "seen", lambda: trace_loss(self.loss, *self._given)
            )

    def _trace(self):
        return trace_of_graph(self._seen())

    def state_kept(self):
        """Puts back what the loss writes to while the block runs."""
        return state_kept(self._seen())

    def rerun(self):
        """Runs the loss eagerly once more, see `step.rerun_loss`."""
        return self._once("rerun", lambda: rerun_loss(self.loss, *self._given))

    def recorded(self, instead=None):
        """Returns the loss op by op, see `recorder.record_loss`."""
        if instead is not None:
            return record_loss(self.loss, *self._given, instead)
        return self._once(
            "recorded", lambda: record_loss(self.loss, *self._given)
        )

    def loss_run(self):
        """Returns the `LossRun`, `None` if the loss is no function."""
        return self._once(
            "loss_run",
            lambda: _loss_run(self.loss, *self._given, self._seen()),
        )


def _has_values(one):
    return one is None or isinstance(one, np.ndarray) or hasattr(one, "numpy")


def _head_call(seen, is_eager):
    logits = logits_behind(seen.y_pred)
    dtype = getattr(getattr(seen.y_pred, "dtype", None), "name", None)
    # A cast to the dtype of the loss leaves the logits behind.
    is_cast = dtype != getattr(seen.loss, "dtype", dtype)
    return HeadCall(
        seen.name,
        seen.loss,
        _array(seen.y_true),
        _array(seen.y_pred),
        _array(logits),
        logits is not None and not is_cast,
        is_cast,
        _array(seen.sample_weight),
        is_masked(seen.y_pred),
        seen.is_inner,
        is_eager,
    )


def _array(value):
    """The numbers of a tensor, `None` for a nest and what is not known."""
    if isinstance(value, np.ndarray):
        return value
    is_known = isinstance(value, tf.Tensor) and hasattr(value, "numpy")
    if not is_known or not (value.dtype.is_floating or value.dtype.is_integer):
        return None
    if value.dtype == tf.bfloat16:
        value = tf.cast(value, tf.float32)
    return value.numpy()


def _loss_run(loss, y_true, y_pred, seen=None):
    try:
        return LossRun(loss, y_true, y_pred, seen)
    except (LossFailed, NotAFunction):
        return None
