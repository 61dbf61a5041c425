"""From a traced step to findings: which cut hits which variables."""

import collections
import copy
import dataclasses

from keras_gradguard.diagnosis.derivatives import FLAT
from keras_gradguard.diagnosis.outside_tape import (
    outside_findings,
    read_findings,
)
from keras_gradguard.diagnosis.places import Places, inputs_of
from keras_gradguard.diagnosis.unused import unused_findings
from keras_gradguard.graph.flow import Flow, cut_key
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.frames import (
    op_place,
    place_of_gradient,
)

_PLUMBING = frozenset(
    ("Identity", "PartitionedCall", "StatefulPartitionedCall")
)


class Location:
    """The ways from a step's losses to its variables.

    Args:
        trace: A `Trace`.
        model: The model that was traced.
        variables: The trainable variables to look at.
        paths: The path of each, in the same order.
        losses: Tensors to start from, or `Value`s, see `Flow`; by default
            what the tape was asked to differentiate.
        branch: See `edges.edges`.
        stops: See `Flow`.

    Attributes:
        declarations: The `Declarations` of the model.
    """

    def __init__(
        self,
        trace,
        model,
        variables,
        paths,
        losses=None,
        branch=None,
        stops=(),
    ):
        self.trace = trace
        self.model = model
        self.variables = list(variables)
        self.paths = list(paths)
        self._losses = losses
        self._branch = branch
        self._stops = stops
        self._flows = {}
        self.places = Places(trace, model)
        self.tensors = [trace.graph.standing_for(v) for v in self.variables]

    @classmethod
    def of_prediction(cls, trace, branch=None):
        """Takes the predictions of a traced loss for its variables."""
        location = cls(trace, None, (), (), branch=branch)
        location.tensors = [[tensor] for tensor in trace.outputs]
        location.paths = ["y_pred"] * len(location.tensors)
        location._losses = [t for c in trace.targets for t in c.targets]
        return location

    def of_losses(self, losses, stops=()):
        """Returns the ways to the same variables from other tensors.

        Args:
            losses: Tensors to start from.
            stops: See `Flow`.
        """
        other = copy.copy(self)
        other._losses, other._flows, other._stops = losses, {}, stops
        return other

    def flow_of(self, number, state=False):
        """Returns the `Flow` of the losses that should train a variable."""
        losses = self._losses
        if losses is None:
            calls = self._calls_for(number) or self.trace.targets
            losses = [t for call in calls for t in call.targets]
        key = (*losses, state)
        if key not in self._flows:
            self._flows[key] = Flow(
                self.trace.graph, losses, self._stops, self._branch, state
            )
        return self._flows[key]

    def was_asked_for(self, number, calls=None):
        """Returns whether a tape was asked for a variable's gradient.

        Args:
            number: Index of the variable.
            calls: The `TapeCall`s that count; by default all of the trace.
        """
        return bool(self._calls_for(number, calls))

    def _calls_for(self, number, calls=None):
        calls = self.trace.targets if calls is None else calls
        return [c for c in calls if c.is_about(self.variables[number])]

    def distance(self, number, state=False):
        """Returns the number of cuts between the loss and a variable."""
        flow = self.flow_of(number, state)
        tensors = self.tensors[number]
        return min(map(flow.distance, tensors), default=float("inf"))

    def cuts(self, numbers):
        """Returns findings for the cuts that hit some variables.

        Args:
            numbers: Indices of variables at a finite distance above 0.

        Returns:
            A list of `Finding`s, the one with most variables first.
        """
        nearest, hit = {}, collections.defaultdict(set)
        behind = collections.defaultdict(dict)
        for number in numbers:
            state = self.distance(number) == float("inf")
            flow = self.flow_of(number, state)
            tensor = min(self.tensors[number], key=flow.distance)
            for cut in flow.cuts(tensor):
                nearest.setdefault(cut.key, cut)
                hit[cut.key].add(number)
                for edge in cut.beyond:
                    hit[cut_key(edge)].add(number)
                    behind[cut.key][cut_key(edge)] = edge
        findings = []
        for key, cut in nearest.items():
            further = [e for k, e in behind[key].items() if k not in nearest]
            findings.append(self._finding(cut, sorted(hit[key]), further))
        return sorted(findings, key=_rank)

    def _finding(self, cut, hit, further):
        op = cut.edge.op
        kind = "no_gradient_registered" if cut.edge.error else "disconnected"
        cause = None
        if cut.edge.is_state:
            cause = "state"
        elif _gives_zeros(cut):
            kind, cause = "zero", "sign" if op.type == "Sign" else FLAT
            if op.has_own_gradient:
                cause = "zero_custom_gradient"
        elif op.has_own_gradient:
            cause = "custom_gradient"
        types = [value.tensor.op.type for value in cut.path]
        if cut.path[-1].tensor.op is not op:
            types.append(op.type)
        place, notes = self.places.place(op, cut.edge.context)
        if op.has_own_gradient:
            place, notes = _place_of_gradient(op, place, notes)
        return Finding(
            kind=kind,
            place=place,
            op=op.type,
            layer=self.places.layer(op, cut.edge.context),
            loss=self.places.loss_on(cut.path),
            variables=tuple(self.paths[number] for number in hit),
            path=tuple(t for t in types if t not in _PLUMBING) or tuple(types),
            chain=_chain(cut),
            output_dtype=cut.path[-1].tensor.dtype,
            **inputs_of(op),
            cause=cause,
            error=cut.edge.error,
            notes=(*notes, *_also(place, further)),
        )


def _place_of_gradient(op, place, notes):
    """Where a custom gradient returns nothing, and where it is used."""
    found = place_of_gradient(op.graph.oracle.own_gradient(op))
    if found.line is None:
        return place, notes
    if place.line is not None:
        notes = (
            *notes,
            f"this gradient function belongs to the op in line {place.line}",
        )
    return found, notes


def _gives_zeros(cut):
    op, made = cut.edge.op, cut.path[-1].tensor
    return made.op is op and op.graph.oracle.gives_zeros(op, made.index)


def _chain(cut):
    """Op types from the cut toward the loss until a gradient is back."""
    types = []
    for value in reversed(cut.path):
        types.append(value.tensor.op.type)
        if len(types) > 1 and value.tensor.carries_gradient:
            break
    return tuple(types)


def _also(place, further):
    notes = []
    for edge in further[:2]:
        other = op_place(edge.op)
        where = "on the same line"
        if other.line != place.line or other.file != place.file:
            where = f"in line {other.line}" if other.line else "further along"
        elif other.line is None:
            where = "further along"
        notes.append(f"`{edge.op.type}` {where} would cut the gradient as well")
    return tuple(notes)


def _rank(finding):
    is_value = (finding.output_dtype,) == finding.input_dtypes[:1]
    return (-len(finding.variables), not is_value, finding.place.line or 0)


_BRANCH_NOTE = (
    "only if this branch is taken: the other branch passes a gradient"
)


def located_findings(step, trace, missing, losses=None):
    """Explains missing gradients by the graph of a traced step.

    Args:
        step: The `Step`.
        trace: Its `Trace`.
        missing: Indices of variables, or `None` for those that `losses`
            depend on and give no gradient.
        losses: Tensors to start from, see `Location`.

    Returns:
        A list of `Finding`s.
    """
    location = Location(
        trace, step.model, step.variables, step.paths, losses=losses
    )
    far = float("inf")
    if missing is None:
        missing = _depending(location) or range(len(step.variables))
    cut, connected, unused = [], [], []
    for number in missing:
        distance = location.distance(number)
        if distance == far:
            distance = location.distance(number, state=True)
        group = connected if distance == 0 else cut
        (unused if distance == far else group).append(number)
    findings = location.cuts(cut)
    in_branches = branch_findings(step, trace, connected)
    findings += in_branches
    explained = {path for f in in_branches for path in f.variables}
    connected = [n for n in connected if step.paths[n] not in explained]
    findings += outside_findings(location, connected)
    found, unused = read_findings(location, unused)
    findings += found
    findings += unused_findings(location, unused)
    return findings


def _depending(location):
    """The variables that a loss depends on and gives no gradient."""
    far = float("inf")
    everything = range(len(location.variables))
    for state in (False, True):
        found = [n for n in everything if 0 < location.distance(n, state) < far]
        if found:
            return found
    return []


def branch_findings(step, trace, numbers):
    """Finds cuts in one branch of a conditional, or in a Python function.

    Args:
        step: The `Step`.
        trace: Its `Trace`.
        numbers: Indices of variables that another branch connects.

    Returns:
        A list of `Finding`s.
    """
    return branch_cuts(
        lambda branch: Location(
            trace, step.model, step.variables, step.paths, branch=branch
        ),
        numbers,
    )


def branch_cuts(locate, numbers):
    """Finds cuts in one branch of a conditional, see `branch_findings`.

    Args:
        locate: Returns the `Location` for the number of a branch.
        numbers: As for `branch_findings`.

    Returns:
        A list of `Finding`s.
    """
    findings = {}
    for branch in (0, 1):
        location = locate(branch)
        cut = [n for n in numbers if 0 < location.distance(n) < float("inf")]
        for finding in location.cuts(cut):
            key = (finding.op, finding.place.file, finding.place.line)
            notes = finding.notes
            if finding.op != "EagerPyFunc":
                notes = (*notes, _BRANCH_NOTE)
            findings.setdefault(key, dataclasses.replace(finding, notes=notes))
    return list(findings.values())
