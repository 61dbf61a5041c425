"""Addends of a loss that train nothing, or less than they depend on."""

import dataclasses
import pathlib

from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.graph.ops import DATA, RESOURCE, Context, Value
from keras_gradguard.graph.sums import (
    BATCH,
    STOPS,
    Addend,
    Dependence,
    Masks,
    Sums,
    TooLong,
    has_zero_factor,
    is_stop,
)
from keras_gradguard.graph.trace import LOSS, REGULARIZER
from keras_gradguard.records.finding import Finding
from keras_gradguard.records.health import LossReach
from keras_gradguard.source.frames import inside_step, is_users, op_place

# Files and folders of TensorFlow, Keras and what builds on them that hold
# losses, layers and activations; and that of the sum over a batch.
_FORMULAS = frozenset(
    ("layers", "losses", "nn", "nn_impl", "nn_ops", "tensorflow_probability")
)
_SUMMING = ("loss.py",)
_MOST_ADDENDS = 64
_MOST_ROWS = 12
_MOST_NAMED = 4
# What stands for the share of the loss in a note that is not measured yet.
SHARE = "<share>"
_DEAD = "this term is {} of the loss and trains nothing{}"
_DEAD_UNMEASURED = "this term of the loss trains nothing{}"
_PARTIAL = (
    "this term is {} of the loss; its value depends on {} but gives them no "
    "gradient{}"
)
_PARTIAL_UNMEASURED = (
    "the value of this term of the loss depends on {} but gives them no "
    "gradient{}"
)


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What is known of the addends of a step's loss.

    Args:
        findings: `Finding`s of addends that are cut.
        terms: For each, which addend it is about: the number of the loss,
            and the path that `Addend.at` takes.
        reaches: A `LossReach` for each addend, where one is cut.
        lines: `(file, line)`s at which an addend that trains nothing is
            computed.
    """

    findings: tuple[Finding, ...] = ()
    terms: tuple = ()
    reaches: tuple[LossReach, ...] = ()
    lines: frozenset = frozenset()

    def without(self, places):
        """Leaves out findings at places that are known already.

        Args:
            places: `(op, file, line)`s.
        """
        kept = [
            (finding, number)
            for finding, number in zip(self.findings, self.terms, strict=True)
            if _key(finding) not in places
        ]
        return dataclasses.replace(
            self,
            findings=tuple(finding for finding, _ in kept),
            terms=tuple(number for _, number in kept),
        )


def rows_with(known, addends):
    """Returns the terms of a loss with its addends.

    Args:
        known: `LossReach`es of the terms that Keras knows.
        addends: `Verdicts.reaches`; what is of them a term already gives it
            its note.
    """
    notes = {row.name: row.note for row in addends}
    rows = [
        dataclasses.replace(row, note=notes.get(row.name, row.note))
        for row in known
    ]
    names = {row.name for row in rows}
    return rows + [row for row in addends if row.name not in names]


def places_of(diagnoses):
    """Returns `(op, file, line)` of each diagnosis that is no note."""
    return {
        (known.op, known.file, known.line)
        for known in diagnoses
        if known.severity != "note"
    }


def _key(finding):
    return finding.op, finding.place.file, finding.place.line


@dataclasses.dataclass(frozen=True)
class _Term:
    """One addend, as it is judged.

    Args:
        addend: The `Addend`.
        masks: What it depends on, `Masks`.
        cuts: `Op` to `Edge` at which its gradient ends; filled only where
            it trains nothing.
        path: Where it stands in the loss, see `Addend.at`.
    """

    addend: Addend
    masks: Masks
    cuts: dict
    path: tuple = ()

    @property
    def is_dead(self):
        """Whether it trains nothing, and not only because that was written."""
        return self.masks.cut > BATCH and not self.masks.open & ~BATCH

    @property
    def is_whole(self):
        """Whether it trains all that it depends on."""
        masks = self.masks
        return not (masks.cut | masks.stopped) & ~masks.open & ~BATCH


def may_be_cut(graph, is_alone=False):
    """Returns whether a step has an op of the user's that may end a gradient.

    It is asked before a step is traced for its addends.

    Args:
        graph: A `Graph`; bodies are entered.
        is_alone: Whether it is that of a loss alone, without variables.
    """
    for context in Context(graph).everything():
        for op in context.graph.ops:
            if (
                _may_cut(op)
                and op_place(op).line is not None
                and (is_alone or _reads_variable(op, context))
            ):
                return True
    return False


def _may_cut(op):
    """Whether an op ends a gradient: it is asked, not looked up by its type.

    The answer is kept for each type of op, see `Oracle.passes`. A gradient
    that somebody has written by hand is meant as it is.
    """
    if op.has_own_gradient or not any(t.kind == DATA for t in op.inputs):
        return False
    if not all(tensor.carries_gradient for tensor in op.outputs):
        return True
    for number in range(len(op.outputs)):
        passes, _ = op.graph.oracle.passes(op, number)
        if any(
            tensor.kind == DATA and tensor.carries_gradient and not is_open
            for tensor, is_open in zip(op.inputs, passes, strict=True)
        ):
            return True
    return False


def _reads_variable(op, context):
    if context.parent is not None:
        return True
    before = context.graph.ancestors(op.inputs)
    return any(
        tensor.kind == RESOURCE
        for one in before
        if not one.type.startswith("Iterator")
        for tensor in one.inputs
    )


def explain_addends(step, trace, is_judged=True):
    """Judges each addend of a step's losses by itself.

    Args:
        step: The `Step`.
        trace: Its `Trace`, without an error.
        is_judged: Whether `explain_terms` has asked for the called losses
            and `add_loss` terms before.

    Returns:
        `Verdicts`; empty where the loss is no sum, or too long a one.
    """
    if not may_be_cut(trace.graph):
        return Verdicts()
    location = Location(trace, step.model, step.variables, step.paths)
    return verdicts_at(location, is_judged)


def sums_in(location):
    """Takes the losses of a step apart.

    Args:
        location: The `Location`.

    Yields:
        `(calls, dependence, total)` of each: the `TapeCall`s that ask for
        its gradients, its `Dependence`, and itself as an `Addend`.
    """
    trace = location.trace
    bits = {tensor: BATCH for _, tensor in trace.batch}
    for number, tensors in enumerate(location.tensors):
        for tensor in tensors:
            bits[tensor] = BATCH << (number + 1)
    # A variable that the model does not know is trained as well.
    others = {
        id(source): source
        for call in trace.targets
        for source in call.sources
        if _is_variable(source)
    }
    for source in others.values():
        for tensor in trace.graph.standing_for(source):
            bits.setdefault(tensor, BATCH << (len(location.tensors) + 1))
    for target, calls in _calls_by_target(location).items():
        loss = Value(Context(trace.graph), target)
        dependence = Dependence([loss], bits)
        sums = Sums(dependence, _stops(trace), _is_library)
        yield calls, dependence, sums.of(loss)


def _is_library(op):
    """Whether a loss or layer of a library has made an op, for its own use."""
    frames = inside_step(op.frames)
    users = [n for n, frame in enumerate(frames) if is_users(frame[0])]
    own = frames[users[-1] + 1 :] if users else frames
    return any(_is_of_formulas(file) for file, _, _ in own)


def _is_of_formulas(file):
    path = pathlib.PurePath(file)
    if path.name in _SUMMING:
        return False
    return path.stem in _FORMULAS or not _FORMULAS.isdisjoint(path.parts)


def _is_variable(source):
    return hasattr(source, "assign")


def _stops(trace):
    """What is no addend of the user's: the regularisers."""
    return {
        value
        for term in trace.terms
        if term.kind == REGULARIZER
        for value in term.values
    }


def _calls_by_target(location):
    """The tape calls that ask for variables alone, by what they are about."""
    known = set(map(id, location.variables))
    found = {}
    for call in location.trace.targets:
        is_plain = all(
            id(source) in known or _is_variable(source)
            for source in call.sources
        )
        if is_plain and len(call.targets) == 1:
            found.setdefault(call.targets[0], []).append(call)
    return found


def _terms(dependence, total, stops):
    """The largest addends whose own addends all depend on the same."""
    judged = {}

    def look(addend):
        """What tells the leaves of an addend apart, one for each kind."""
        if not addend.parts:
            found = {}
            masks = dependence.of(addend.value)
            is_stop_here = addend.value.tensor in stops
            if masks.variables and not is_stop_here and not _is_nothing(addend):
                term = _Term(addend, masks, {})
                cuts = {}
                if term.is_dead:
                    cuts = {
                        op: edge
                        for op, edge in dependence.first_cuts(
                            addend.value
                        ).items()
                        if not is_stop(edge)
                    }
                found = (masks.open, masks.cut, masks.stopped)
                kind = (*(one & ~BATCH for one in found), frozenset(cuts))
                found = {kind: dataclasses.replace(term, cuts=cuts)}
        else:
            found = {}
            for part in addend.parts:
                found |= look(part)
        judged[id(addend)] = found
        return found

    look(total)
    terms, stack = [], [(total, (), None)]
    while stack:
        addend, path, parent = stack.pop()
        found = list(judged[id(addend)].values())
        is_whole = all(one.is_whole for one in found)
        if len(found) == 1:
            found = dataclasses.replace(found[0], addend=addend, path=path)
            terms.append(found)
        elif found and is_whole and parent and _is_formula(addend, parent):
            terms.append(_Term(addend, dependence.of(addend.value), {}, path))
        elif found:
            parts = list(enumerate(addend.parts))
            stack += [(p, (*path, n), addend) for n, p in reversed(parts)]
    return terms


def _is_formula(addend, parent):
    """Whether a sum is a formula of its own, and not written out in another.

    It stands in a function of its own, or in a line of its own with some
    other op behind it.
    """
    function, line = _innermost(addend.value.tensor.op)
    outer, outer_line = _innermost(parent.value.tensor.op)
    return function != outer or (line != outer_line and len(addend.route) > 1)


def _is_nothing(addend):
    """Whether a constant zero is a factor of an addend."""
    return has_zero_factor(addend.value.tensor.op)


def verdicts_at(location, is_judged=False):
    """Returns the `Verdicts` on the addends of all losses of a step.

    Args:
        location: The `Location`.
        is_judged: See `explain_addends`.
    """
    findings, about, reaches, lines = [], [], [], set()
    try:
        for number, (calls, dependence, total) in enumerate(sums_in(location)):
            terms = _terms(dependence, total, _stops(location.trace))
            if not 1 < len(terms) <= _MOST_ADDENDS:
                continue
            found = _Judge(location, calls, dependence, total, terms, is_judged)
            for term, finding in found.findings():
                findings.append(finding)
                about.append((number, term.path))
            lines |= found.lines
            reaches += found.reaches()
    except TooLong:
        return Verdicts()
    return Verdicts(
        tuple(findings),
        tuple(about),
        tuple(reaches),
        frozenset(lines),
    )


class _Judge:
    """Judges the addends of one loss.

    Args:
        location: The `Location` of the step.
        calls: The `TapeCall`s that differentiate the loss.
        dependence: The `Dependence` of the loss.
        total: The loss as an `Addend`.
        terms: Its `_Term`s.
        is_judged: See `explain_addends`.
    """

    def __init__(self, location, calls, dependence, total, terms, is_judged):
        self._location = location
        self._trace = location.trace
        self._dependence = dependence
        self._total = total
        self._terms = terms
        self._names = {tensor: name for tensor, name in self._trace.named}
        self._is_judged = is_judged
        self._whole = dependence.of(total.value)
        self.lines = set()
        everything = range(len(location.tensors))
        is_alone = location.model is None
        self._asked = [
            n
            for n in everything
            if is_alone or location.was_asked_for(n, calls)
        ]

    def findings(self):
        """Yields `(term, Finding)`s, and fills `lines`."""
        for term in self._terms:
            if term.is_dead:
                found = self._dead(term)
            else:
                found = self._partial(term)
            for finding in found:
                yield term, finding

    def _numbers(self, mask):
        return [n for n in self._asked if mask & (BATCH << (n + 1))]

    def _dead(self, term):
        if self._is_known(term) or self._is_shared(term):
            return
        hit = self._numbers(term.masks.cut)
        if not self._numbers(term.masks.cut & self._whole.open):
            # All of it is missing, and has been explained.
            return
        found = self._cuts(term, hit)
        for value in self._dependence.before_cuts(term.addend.value):
            place = op_place(value.tensor.op)
            if found and place.line is not None:
                self.lines.add((place.file, place.line))
        for op in term.cuts if found else ():
            place = op_place(op)
            self.lines.add((place.file, place.line))
        for finding in found:
            self.lines.add((finding.place.file, finding.place.line))
            others = self._others(finding)
            yield self._with(
                finding,
                term,
                _DEAD.format(SHARE, others),
                _DEAD_UNMEASURED.format(others),
            )

    def _cuts(self, term, hit, ops=None):
        """The findings for its cuts, or for those at some ops alone.

        Of several cuts in a row the one nearest to a variable is found.
        """
        # What was stopped on purpose is no way to what was cut by accident.
        stops = [
            tensor
            for op, edge in self._dependence.first_cuts(
                term.addend.value
            ).items()
            if is_stop(edge)
            for tensor in op.outputs
        ]
        location = self._location.of_losses([term.addend.value], stops)
        hit = [n for n in hit if 0 < location.distance(n) < float("inf")]
        if ops is None:
            return [f for f in location.cuts(hit) if f.op not in STOPS]
        place = self._location.places.place
        keys = {(o.type, place(o, e.context)[0]) for o, e in ops.items()}
        return [f for f in location.cuts(hit) if (f.op, f.place) in keys]

    def _others(self, finding):
        """Which of the variables that a cut hits other terms do train."""
        trained = {
            self._location.paths[n] for n in self._numbers(self._whole.open)
        }
        shared = [path for path in finding.variables if path in trained]
        if not shared or self._location.model is None:
            return ""
        return f": other terms train {_listed(shared)}"

    def _with(self, finding, term, *texts):
        evidence = {**finding.evidence, "addend": True, "texts": texts}
        loss = finding.loss or self._loss_of(term)
        return dataclasses.replace(finding, loss=loss, evidence=evidence)

    def _is_known(self, term):
        """Whether a loss or `add_loss` that is this term was asked before."""
        return self._is_judged and self._own_name(term) is not None

    def _is_shared(self, term):
        """Whether an addend with a gradient needs what the cut has made.

        So it is with the pieces of one formula, a mask of which chooses, and
        with what is left of a value, as in `x - floor(x)`.
        """
        alive = [one for one in self._terms if one.masks.open & ~BATCH]
        values = {value.key for one in alive for value in one.addend.values()}
        return any(
            self._dependence.depends_on(one.addend.value, term.cuts)
            for one in alive
        ) or any(edge.source.key in values for edge in term.cuts.values())

    def _partial(self, term):
        masks = term.masks
        cut = masks.cut & ~(masks.open | masks.stopped)
        hit = self._numbers(cut & self._whole.open)
        if not masks.open & ~BATCH or not hit:
            return
        ops = self._data_cuts(term, cut)
        for finding in self._cuts(term, hit, ops) if ops else ():
            names = _listed(finding.variables)
            others = self._others(finding)
            yield self._with(
                finding,
                term,
                _PARTIAL.format(SHARE, names, others),
                _PARTIAL_UNMEASURED.format(names, others),
            )

    def _data_cuts(self, term, cut):
        """The cut ops whose output goes on into a layer, as its data."""
        return {
            op: edge
            for op, edge in self._cuts_before(term, cut).items()
            if not is_stop(edge) and self._feeds_layer(term, op)
        }

    def _cuts_before(self, term, mask):
        """The first edges behind which there are some variables alone."""
        found = self._dependence.first_cuts(term.addend.value)
        return {
            op: edge
            for op, edge in found.items()
            if self._dependence.of(edge.source).all & mask & ~BATCH
        }

    def _feeds_layer(self, term, op):
        """Whether nothing but plain data leads from an op into a layer.

        A mask or an index that was chosen by a prediction is meant so.
        """
        later, start = self._later(term), [op]
        seen = set(start)
        while start:
            here = start.pop()
            for edge, value in later.get(here, ()):
                if edge.selects and self._has_other(edge, value):
                    return False
                if edge.op.type in ("Mul", "Select", "SelectV2", "GatherV2"):
                    if self._has_other(edge, value):
                        return False
                if self._is_layer(edge, value):
                    return True
                if edge.op not in seen:
                    seen.add(edge.op)
                    start.append(edge.op)
        return False

    def _has_other(self, edge, value):
        """Whether something else that is no constant goes into an op."""
        return any(
            self._dependence.of(other.source).all
            for other in self._dependence.edges(value)
            if other.source.key != edge.source.key
        )

    def _is_layer(self, edge, value):
        """Whether an op takes plain data and a weight."""
        return edge.op.type.startswith(_LAYERS) and any(
            _is_weight(other.source) for other in self._dependence.edges(value)
        )

    def _later(self, term):
        """`(edge, later value)`s by the op whose output goes into them."""
        later = {}
        for value in self._dependence.before_cuts(term.addend.value):
            for edge in self._dependence.edges(value):
                later.setdefault(edge.source.tensor.op, []).append(
                    (edge, value)
                )
        return later

    def reaches(self):
        """Returns a `LossReach` for each term, empty where none is cut."""
        rows = [(term, self._note(term)) for term in self._terms]
        if not any(term.is_dead or note for term, note in rows):
            return []
        found, names = [], {}
        for term, note in rows[:_MOST_ROWS]:
            name = self._name(term)
            names[name] = names.get(name, 0) + 1
            name += f" #{names[name]}" if names[name] > 1 else ""
            reached = self._numbers(term.masks.open)
            everything = range(len(self._location.tensors))
            ways = tuple(n in reached for n in everything)
            found.append(LossReach(name, LOSS, ways, note=note))
        return found

    def _note(self, term):
        """Which line keeps a term from variables that it depends on."""
        masks = term.masks
        lost = self._numbers((masks.cut | masks.stopped) & ~masks.open)
        if not lost:
            return None
        mask = sum(BATCH << (n + 1) for n in lost)
        for op in self._cuts_before(term, mask):
            place = op_place(op)
            if place.line is not None:
                paths = _listed([self._location.paths[n] for n in lost])
                return (
                    f"`{op.type}` in line {place.line} blocks its gradient to "
                    f"{paths}"
                )
        return None

    def _own_name(self, term):
        """The name of the loss that a term is, and no part of one."""
        inside = [term.addend]
        while len(inside) == 1:
            (here,) = inside
            for value in reversed(here.passed):
                if value.tensor in self._names:
                    return self._names[value.tensor]
            inside = [
                part
                for part in here.parts
                if self._dependence.of(part.value).variables
            ]
        return None

    def _loss_of(self, term):
        """The name of the loss that a term belongs to, `None` without one."""
        found = self._own_name(term)
        path, here = [], self._total
        while found is None and here is not term.addend:
            passed = [value.tensor for value in here.passed]
            path += [self._names[t] for t in passed if t in self._names]
            inside = [p for p in here.parts if _holds(p, term.addend)]
            if not inside:
                break
            here = inside[0]
        return found or (path[-1] if path else None)

    def _name(self, term):
        """What a user calls a term: its function, or its line."""
        loss, own = self._loss_of(term), self._own_name(term)
        if own is not None:
            return own
        function, line = _innermost(term.addend.value.tensor.op)
        outer, _ = _innermost(self._parent(term).value.tensor.op)
        name = function
        if function is None:
            name = term.addend.value.tensor.op.type
        elif function == outer or function in ("<lambda>", "call"):
            name = f"line {line}"
        return f"{loss}: {name}" if loss and loss != name else name

    def _parent(self, term):
        here = self._total
        while True:
            inside = [p for p in here.parts if _holds(p, term.addend)]
            if not inside or inside[0] is term.addend:
                return here
            here = inside[0]


_LAYERS = ("MatMul", "BatchMatMul", "Conv", "Depthwise", "Einsum")


def _is_weight(value):
    op = value.tensor.op
    while op.type in ("Cast", "Identity") and op.inputs:
        op = op.inputs[0].op
    return any(tensor.kind == RESOURCE for tensor in op.inputs)


def _holds(addend, wanted):
    return addend is wanted or any(_holds(p, wanted) for p in addend.parts)


def _innermost(op):
    """Function and line of the user's that made an op."""
    frames = [f for f in inside_step(op.frames) if is_users(f[0])]
    return (frames[-1][2], frames[-1][1]) if frames else (None, None)


def _listed(paths):
    paths = list(dict.fromkeys(paths))
    more = len(paths) - _MOST_NAMED
    rest = f" (+{more} more)" if more > 0 else ""
    return ", ".join(paths[:_MOST_NAMED]) + rest
