"""The reasoning on graphs that are made by hand: no framework, no model."""

import subprocess
import sys

import numpy as np
import pytest

from keras_gradguard.diagnosis.cuts import Location, located_findings
from keras_gradguard.diagnosis.nonfinite import nonfinite_findings
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.edges import edges
from keras_gradguard.graph.flow import Flow, flows_to
from keras_gradguard.graph.ops import (
    DATA,
    INTEGER,
    LIST,
    RESOURCE,
    TEXT,
    Context,
    Graph,
    Value,
    is_condition,
    walk,
    writes_state,
)
from keras_gradguard.graph.trace import LossCall, ReadOut, Step, TapeCall, Trace
from keras_gradguard.records.finding import Place

CLOSED = ("Round", "Greater", "StopGradient", "ArgMax")


class Oracle:
    """Knows a few ops by their type."""

    def __init__(self, unregistered=()):
        self.asked = []
        self._unregistered = unregistered

    def passes(self, op, index):
        """All inputs but those of ops that are flat."""
        self.asked.append((op, index))
        if op.type in self._unregistered:
            return (False,) * len(op.inputs), f"no entry for: {op.type}"
        is_open = op.type not in CLOSED
        return tuple(
            is_open and tensor.carries_gradient for tensor in op.inputs
        ), None

    def own_gradient(self, op):
        """None has one."""
        return None

    def gives_zeros(self, op, index):
        """None has a gradient of zeros."""
        return False

    def finds_length(self, op, index):
        """`Where` finds as many rows as there are."""
        return op.type == "Where"

    def frames_to_stand_in(self, op):
        """There are none."""
        return []


class Weight:
    """Stands for a variable."""

    regularizer = None
    shape = ()


W, V = Weight(), Weight()


def frames(line):
    """Frames as an op has them, the last one the user's."""
    return [(__file__, line, "loss")]


@pytest.fixture
def graph():
    """A graph with two weights."""
    graph = Graph(Oracle())
    for variable in (W, V):
        graph.given("resource", (), variable=variable)
    return graph


def read(graph, variable):
    """Returns the value of a weight."""
    (handle,) = graph.standing_for(variable)
    return graph.add("ReadVariableOp", [handle]).outputs[0]


def made(graph, kind, *inputs, dtype="float32", **known):
    """Adds an op, and returns what comes out of it."""
    return graph.add(kind, inputs, [dtype], **known).outputs[0]


def findings(graph, loss, missing=(0, 1), **known):
    """What is found of the weights of a step."""
    trace = Trace(graph, targets=[TapeCall((loss,), (W, V))], **known)
    step = Step(None, None, (W, V), ("w", "v"))
    return located_findings(step, trace, list(missing))


def test_kinds_of_tensors(graph):
    """By the name of the type."""
    known = {
        "bfloat16": DATA,
        "float8_e4m3fn": DATA,
        "complex64": DATA,
        "int32": INTEGER,
        "bool": INTEGER,
        "resource": RESOURCE,
        "variant": LIST,
        "string": TEXT,
    }
    found = {name: graph.given(name).kind for name in known}
    assert known == found
    carrying = [n for n in known if graph.given(n).carries_gradient]
    assert ["bfloat16", "float8_e4m3fn", "complex64", "resource"] == carrying[
        :4
    ]
    assert ["variant"] == carrying[4:]


def test_open_and_cut(graph):
    """One weight has a way, the other ends at an op that is flat."""
    w, v = read(graph, W), read(graph, V)
    rounded = made(graph, "Round", v, frames=frames(12))
    loss = made(graph, "Add", w, rounded)
    flow = Flow(graph, [loss])
    assert (0, 1) == tuple(
        flow.distance(graph.standing_for(x)[0]) for x in (W, V)
    )
    assert flows_to(loss, [w])
    assert not flows_to(loss, [v])
    (found,) = findings(graph, loss, [1])
    assert ("Round", 12, ("v",)) == (
        found.op,
        found.place.line,
        found.variables,
    )
    assert ("Add", "Round") == found.path
    assert ("disconnected", None) == (found.kind, found.cause)


def test_nearest_cut(graph):
    """Of two in a row the one nearest to the weight; the other is a note."""
    w = read(graph, W)
    near = made(graph, "Round", w, frames=frames(3))
    far = made(graph, "StopGradient", near, frames=frames(4))
    (found,) = findings(graph, far, [0])
    assert "Round" == found.op
    assert (
        "`StopGradient` in line 4 would cut the gradient as well",
    ) == found.notes


def test_fewest_cuts(graph):
    """The way with one cut counts, not the shorter one with two."""
    w = read(graph, W)
    twice = made(graph, "Round", made(graph, "StopGradient", w))
    once = made(graph, "ArgMax", made(graph, "Mul", made(graph, "Neg", w), w))
    (found,) = findings(graph, made(graph, "Add", twice, once), [0])
    assert "ArgMax" == found.op


def test_selection(graph):
    """An index is a cause only where no other way is left."""
    w = read(graph, W)
    index = made(graph, "ArgMax", w, dtype="int64")
    gathered = made(graph, "Gather", read(graph, V), index)
    (edge,) = [
        e
        for e in edges(Value(Context(graph), gathered))
        if e.source.tensor is index
    ]
    assert edge.selects
    assert not edge.is_open
    (found,) = findings(graph, gathered, [0])
    assert ("ArgMax", "int64") == (found.op, found.output_dtype)
    other = made(graph, "Add", gathered, made(graph, "Round", w))
    (found,) = findings(graph, other, [0])
    assert "Round" == found.op


def branches(graph, weight):
    """A conditional that rounds in one of its branches."""
    bodies = []
    for kind in ("Round", "Neg"):
        body = Graph(graph.oracle)
        given = body.given()
        body.outputs = [made(body, kind, given, frames=frames(len(kind)))]
        bodies.append(body)
    condition = made(graph, "Greater", weight, dtype="bool")
    op = graph.add("If", [condition, weight])
    op.run("branch", bodies)
    return op.outputs[0]


def test_branches(graph):
    """Connected through one of them; the other's cut is known as such."""
    chosen = branches(graph, read(graph, W))
    flow = Flow(graph, [chosen])
    assert 0 == flow.distance(graph.standing_for(W)[0])
    (found,) = findings(graph, chosen, [0])
    assert "Round" == found.op
    assert "only if this branch is taken" in found.notes[-1]
    first = Flow(graph, [chosen], branch=0)
    assert 1 == first.distance(graph.standing_for(W)[0])


def test_loop(graph):
    """A cut in the body of a loop; what the loop carries comes back."""
    condition, body = Graph(graph.oracle), Graph(graph.oracle)
    limit = condition.given()
    condition.outputs = [made(condition, "Less", limit, dtype="bool")]
    carried = body.given()
    body.outputs = [made(body, "Round", carried, frames=frames(9))]
    op = graph.add("While", [read(graph, W)])
    op.run("while", [condition, body])
    (found,) = findings(graph, op.outputs[0], [0])
    assert ("Round", 9) == (found.op, found.place.line)


def test_a_function_that_is_called_twice(graph):
    """One op in its body is one cut, in whatever call."""
    body = Graph(graph.oracle)
    given = body.given()
    body.outputs = [made(body, "Round", given, frames=frames(7))]
    called = []
    for variable in (W, V):
        op = graph.add("Call", [read(graph, variable)])
        op.run("call", [body])
        called += op.outputs
    (found,) = findings(graph, made(graph, "Add", *called))
    assert ("w", "v") == found.variables


def test_state(graph):
    """A value that is stored, and read after that, gives no gradient."""
    metric = graph.given("resource", ())
    store = graph.add(
        "AssignVariableOp", [metric, read(graph, W)], [], frames=frames(5)
    )
    assert writes_state(store)
    loss = made(graph, "ReadVariableOp", metric)
    (found,) = findings(graph, loss, [0])
    assert ("state", "AssignVariableOp", 5) == (
        found.cause,
        found.op,
        found.place.line,
    )
    early = Graph(Oracle())
    early.given("resource", (), variable=W)
    metric = early.given("resource", ())
    loss = made(early, "ReadVariableOp", metric)
    early.add("AssignVariableOp", [metric, read(early, W)], [])
    trace = Trace(early, targets=[TapeCall((loss,), (W,))])
    location = Location(trace, None, (W,), ("w",))
    assert float("inf") == location.distance(0, state=True)


def test_length(graph):
    """How many rows were found is a value too."""
    rows = graph.add("Where", [read(graph, W)], [("int64", (None, 1))])
    rows.inputs[0]._shape = (4,)
    loss = made(graph, "Size", rows.outputs[0])
    (found,) = findings(graph, loss, [0])
    assert "Where" == found.op


def test_no_gradient_registered():
    """The words of the backend are handed on."""
    graph = Graph(Oracle(unregistered=("Lu",)))
    graph.given("resource", (), variable=W)
    (found,) = findings(graph, made(graph, "Lu", read(graph, W)), [0])
    assert "no_gradient_registered" == found.kind
    assert "no entry for: Lu" == found.error


def test_outside_the_tape(graph):
    """Connected in the graph, while no tape recorded."""
    doubled = made(graph, "Mul", read(graph, W), frames=frames(8))
    loss = made(graph, "Sum", doubled)
    asked = TapeCall((loss,), (W,), Place("x.py", 9, "step"), frozenset((2,)))
    trace = Trace(graph, targets=[asked])
    step = Step(None, None, (W,), ("w",))
    (found,) = located_findings(step, trace, [0])
    assert ("outside_tape", "Mul") == (found.cause, found.op)


def test_read_out(graph):
    """What was read out hangs on the weight, and the loss on nothing."""
    doubled = made(graph, "Mul", read(graph, W))
    place = Place("no such file", 3)
    (found,) = findings(
        graph,
        made(graph, "Const"),
        [0],
        read=[ReadOut(doubled, "numpy", place)],
    )
    assert ("untraceable", "numpy", place) == (
        found.kind,
        found.cause,
        found.place,
    )


def test_loss_and_layer_of_a_cut(graph):
    """The name is that of the loss on the way, the layer that of the call."""
    body = Graph(graph.oracle)
    given = body.given()
    body.outputs = [made(body, "Round", given, frames=frames(7))]
    op = graph.add("Call", [read(graph, W)])
    op.run("call", [body])
    op.layer = "net/inner"
    loss = made(graph, "Mean", op.outputs[0])
    total = made(graph, "Add", loss, made(graph, "Const"))
    (found,) = findings(
        graph, total, [0], losses=[LossCall("mae", loss)], named=[(loss, "mae")]
    )
    assert ("net/inner", "mae") == (found.layer, found.loss)


def test_prediction(graph):
    """A loss alone, asked for its prediction."""
    prediction = graph.given(shape=(4, 3))
    loss = made(graph, "Round", prediction)
    trace = Trace(graph, targets=[TapeCall((loss,))], outputs=[prediction])
    location = Location.of_prediction(trace)
    assert 1 == location.distance(0)
    (found,) = location.cuts([0])
    assert ("y_pred",) == found.variables


def test_ancestors_and_descendants(graph):
    """Each once; the next op on the shortest way; what may not be passed."""
    w = read(graph, W)
    neg = made(graph, "Neg", w)
    both = made(graph, "Add", neg, w)
    assert {
        both.op: None,
        neg.op: both.op,
        w.op: both.op,
    } == graph.ancestors([both])
    assert [neg, both] == sorted(
        graph.descendants([w]), key=lambda tensor: tensor.op.number
    )
    assert [both] == list(graph.descendants([w], lambda op: op.type != "Neg"))
    root = Context(graph)
    seen = list(
        walk(
            [Value(root, both)],
            lambda v: [Value(root, t) for t in v.tensor.op.inputs],
        )
    )
    assert 4 == len(seen)


def test_conditions(graph):
    """Truth values of numbers, not of other truth values."""
    asked = graph.add("Greater", [read(graph, W)], ["bool"])
    assert is_condition(asked)
    assert not is_condition(graph.add("Not", asked.outputs, ["bool"]))


class Recorded(Oracle):
    """Ops with values: a tensor's native, and a gradient, is an array."""

    def pull(self, op, incoming, compiled=False):
        """Sqrt, square and sum."""
        (gradient,) = incoming
        (x,) = (tensor.native for tensor in op.inputs)
        with np.errstate(divide="ignore"):
            slope = {
                "Sqrt": lambda: 0.5 / np.sqrt(x),
                "Square": lambda: 2 * x,
                "Sum": lambda: np.ones_like(x),
                "ReadVariableOp": lambda: np.ones_like(gradient),
            }[op.type]()
        return [slope * gradient]

    def seed(self, tensor):
        """Ones."""
        return np.ones_like(tensor.native)

    def total(self, gradients):
        """A sum."""
        return sum(gradients)

    def with_finite(self, gradient):
        """Small numbers where it is not."""
        return np.where(np.isfinite(gradient), gradient, 1e-3)

    def array(self, value, dense=False):
        """It is one."""
        return value

    def is_rows(self, gradient):
        """Never."""
        return False


def recorded(values):
    """The root of a weight, summed, as it ran."""
    graph = Graph(Recorded())
    handle = graph.given("resource", (), variable=W)
    shape = values.shape
    read = graph.add("ReadVariableOp", [handle], [("float32", shape, values)])
    root = graph.add(
        "Sqrt",
        read.outputs,
        [("float32", shape, np.sqrt(values))],
        frames=frames(6),
    )
    total = graph.add(
        "Sum", root.outputs, [("float32", (), np.sqrt(values).sum())]
    )
    return Trace(graph, targets=[TapeCall(total.outputs, (W,))])


def test_a_step_taken_back():
    """Gradients op by op, the one nearest to the loss first."""
    trace, seen = recorded(np.array([1.0, 4.0])), []
    gradients = Gradients(trace.graph, trace.targets[0], seen.append)
    np.testing.assert_allclose([0.5, 0.25], gradients.array(W))
    assert ["Sum", "Sqrt", "ReadVariableOp"] == [p.op.type for p in seen]


def test_gradient_function_that_fails(monkeypatch):
    """Behind an op whose gradient nobody can compute nothing is known."""
    pull = Recorded.pull

    def failing(self, op, *given):
        return None if op.type == "Sqrt" else pull(self, op, *given)

    monkeypatch.setattr(Recorded, "pull", failing)
    trace, seen = recorded(np.array([1.0, 4.0])), []
    gradients = Gradients(trace.graph, trace.targets[0], seen.append)
    assert gradients.array(W) is None
    assert ["Sum"] == [p.op.type for p in seen]


def test_where_inf_begins():
    """The slope of a root at zero."""
    (found,) = nonfinite_findings(recorded(np.array([0.0, 4.0])), [W], ["w"])
    assert ("Sqrt", 6, ("w",)) == (
        found.op,
        found.place.line,
        found.variables,
    )
    assert {"phase": "backward", "result": "inf", "value": 0.0} == {
        key: found.evidence[key] for key in ("phase", "result", "value")
    }
    assert [] == nonfinite_findings(recorded(np.array([1.0])), [W], ["w"])


WITHOUT = """
import importlib, pathlib, sys
import keras
import keras_gradguard

for name in list(sys.modules):
    if name.partition(".")[0] == "tensorflow":
        # An import of it fails from here on.
        sys.modules[name] = None
sys.modules["tensorflow"] = None
folder = pathlib.Path(keras_gradguard.__file__).parent
for name in sys.argv[1:]:
    for file in sorted((folder / name).rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        importlib.import_module(".".join(parts).removesuffix(".__init__"))
print(sum(name.startswith("keras_gradguard.") for name in sys.modules))
"""


def test_without_tensorflow():
    """What reasons and what shows import none of it; Keras itself does."""
    folders = ("graph", "source", "diagnosis", "measure", "rules")
    folders += ("records", "view")
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, *folders],
        capture_output=True,
        text=True,
    )
    assert 0 == ran.returncode, ran.stderr
    assert int(ran.stdout) > 100
