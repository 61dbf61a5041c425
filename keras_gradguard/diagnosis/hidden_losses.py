"""Losses that train nothing while something else hides it."""

import dataclasses
import inspect

from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.diagnosis.unused import unused_findings
from keras_gradguard.graph.edges import edges
from keras_gradguard.graph.flow import Flow
from keras_gradguard.graph.ops import Context, Value, walk
from keras_gradguard.graph.trace import ADDED, LOSS, OTHER, Trace
from keras_gradguard.model.layers import (
    has_extra_losses,
    is_default_step,
    is_default_sum,
    layers_of,
    runs_eagerly,
)
from keras_gradguard.model.losses import has_several_losses
from keras_gradguard.records.finding import Finding
from keras_gradguard.records.health import LossReach


def reaches_of(step, trace):
    """Returns which term leads a gradient to which variable, by the graph.

    Args:
        step: The `Step`; the reaches are in the order of its variables.
        trace: Its `Trace`, without an error.

    Returns:
        A list of `LossReach` without norms.
    """
    found, everything = [], range(len(step.variables))
    entered = [(call, _flow(trace, call)) for call in trace.targets]
    whole = _located(step, trace)
    for term in trace.terms:
        values, calls = [], []
        for value in term.values:
            via = [call for call, flow in entered if flow.distance(value) == 0]
            values += [value] if via else []
            calls += via
        location = whole.of_losses(values)
        found.append(
            LossReach(
                term.name,
                term.kind,
                tuple(
                    location.was_asked_for(n, calls)
                    and location.distance(n) == 0
                    for n in everything
                ),
            )
        )
    known = [value for term in trace.terms for value in term.values]
    rest = _located(step, trace, stops=known)
    is_left = tuple(
        rest.was_asked_for(n) and rest.distance(n) == 0 for n in everything
    )
    if trace.terms and any(is_left):
        found.append(LossReach(OTHER, LOSS, is_left))
    return found


def _flow(trace, call):
    return Flow(trace.graph, call.targets)


_EAGER_NOTE = (
    "run_eagerly=True lets this model train, but each batch takes one branch, "
    "and no gradient shows which branch is better"
)
_MOST_NAMED = 4
_NOTE = "a regularizer or another loss still updates some of these variables"


@dataclasses.dataclass(frozen=True)
class HiddenLosses:
    """What is known of the terms of a step's loss.

    Args:
        trace: The `Trace` of the step; `None` where its loss can have but
            one term.
        findings: `Finding`s of terms that train nothing.
        left_out: Those of losses that never enter the total; the variables
            are what each would train, and the others do.
        notes: `Finding`s that break nothing.
    """

    trace: Trace | None = None
    findings: tuple[Finding, ...] = ()
    left_out: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()


def may_have_terms(model):
    """Returns whether a loss may have several terms, before a step has run.

    Args:
        model: A built and compiled Keras model.
    """
    if _has_terms(model) or getattr(model, "outputs", None) is None:
        return True
    return any(
        layer.activity_regularizer is not None
        or "add_loss" in getattr(_code_of(layer.call), "co_names", ())
        for layer in layers_of(model)
    )


def _code_of(method):
    return getattr(inspect.unwrap(method), "__code__", None)


def _has_terms(model):
    return (
        not is_default_step(model)
        or has_several_losses(model)
        or has_extra_losses(model)
    )


def explain_terms(step, is_asked=False):
    """Looks for losses that train nothing while other terms hide it.

    Args:
        step: The `Step`.
        is_asked: Whether to look also where no sign tells of several terms.

    Returns:
        `HiddenLosses` without findings if every loss trains what it depends
        on. A Python `if` on a tensor that only eager mode lets pass is a
        note.
    """
    model = step.model
    is_eager = runs_eagerly(model)
    if not (is_asked or is_eager or _has_terms(model)):
        return HiddenLosses()
    trace = step.evidence.traced()
    if trace.error is not None:
        finding = step.evidence.failure(trace.error)
        if not is_eager or getattr(finding, "cause", "") != "tensor_as_bool":
            return HiddenLosses(trace)
        note = dataclasses.replace(finding, notes=(_EAGER_NOTE,))
        return HiddenLosses(trace, notes=(note,))
    return _hidden(step, trace)


def _hidden(step, trace):
    batch = {tensor for _, tensor in trace.batch}
    on_batch, on_weights = [], []
    for term in trace.terms:
        for value in term.values if term.kind != LOSS else ():
            is_data = term.kind == ADDED and _depends_on(trace, value, batch)
            group = on_batch if is_data else on_weights
            group.append((term.name, value))
    # The losses inside a loss are asked too: one of them may be cut alone.
    called = [call for call in trace.losses if call.value is not None]
    terms = [(call.name, call.value) for call in called] + on_batch
    stops = [value for _, value in on_weights]
    data = _located(step, trace, stops=stops)
    lost, notes = _lost_terms(step, trace, terms, data)
    lost = (*_lost_in_all(step, trace, data), *lost)
    return HiddenLosses(trace, lost, _left_out(step, trace), notes)


def _left_out(step, trace):
    """Compiled losses that Keras calls and does not add."""
    if not is_default_sum(step.model):
        return ()
    targets = [t for call in trace.targets for t in call.targets]
    total = Flow(trace.graph, targets)
    whole, findings = _located(step, trace), []
    for call in trace.losses:
        if (
            call.value is None
            or call.is_inner
            or total.reached(total.value(call.value))
        ):
            continue
        location = whole.of_losses([call.value])
        paths = [
            p for n, p in enumerate(step.paths) if not location.distance(n)
        ]
        findings.append(
            Finding(
                kind="unused",
                cause="loss_left_out",
                loss=call.name,
                variables=tuple(paths),
            )
        )
    return tuple(findings)


def _lost_in_all(step, trace, data):
    """Variables that only regularisers train, though data leads to them."""
    everything = range(len(step.variables))
    distances = [data.distance(n) for n in everything]
    cut = [n for n in everything if 0 < distances[n] < float("inf")]
    with_regularisers = _located(step, trace)
    moved = [n for n in cut if with_regularisers.distance(n) == 0]
    unused = [
        n
        for n in everything
        if distances[n] == float("inf")
        and getattr(step.variables[n], "regularizer", None) is not None
    ]
    found = data.cuts(moved) if moved else []
    return _noted(found + unused_findings(data, unused))


def _lost_terms(step, trace, terms, data):
    """Loss terms that are cut from variables which another term trains.

    Returns:
        `(findings, notes)`: of terms that train nothing, or share their cut
        with variables that nothing trains; and of those that merely train
        less than they depend on.
    """
    flows = [(call, Flow(trace.graph, call.targets)) for call in trace.targets]
    findings, notes = [], []
    numbers = {path: number for number, path in enumerate(step.paths)}
    for name, term in terms:
        # A tape of its own may ask a term for other variables only.
        calls = [call for call, flow in flows if flow.distance(term) == 0]
        location = data.of_losses([term])
        distances = {
            n: location.distance(n)
            for n in numbers.values()
            if location.was_asked_for(n, calls)
        }
        is_lost = 0 not in distances.values()
        cut = [n for n, far in distances.items() if 0 < far < float("inf")]
        for finding in location.cuts(cut) if cut else ():
            hit = [numbers[path] for path in finding.variables]
            shared = [n for n in hit if data.distance(n) == 0]
            finding = _named(finding, name, [step.paths[n] for n in shared])
            if shared and (is_lost or len(shared) < len(hit)):
                findings.append(finding)
            elif shared and _loses_values(finding, [distances[n] for n in hit]):
                notes.append(finding)
    return _noted(findings), tuple(notes)


def _named(finding, name, shared):
    loss = finding.loss or name
    paths = ", ".join(shared[:_MOST_NAMED])
    more = len(shared) - _MOST_NAMED
    paths += f" (+{more} more)" if more > 0 else ""
    note = f"`{loss}` gives no gradient to {paths}: other terms train them"
    return dataclasses.replace(finding, loss=loss, notes=(*finding.notes, note))


def _loses_values(finding, distances):
    """Whether a cut is none that is written to be one, or a choice."""
    return (
        finding.op != "StopGradient"
        and finding.cause is None
        and set(distances) == {1}
    )


def _located(step, trace, **arguments):
    return Location(trace, step.model, step.variables, step.paths, **arguments)


def _noted(findings):
    return tuple(
        dataclasses.replace(f, notes=(*f.notes, _NOTE)) for f in findings
    )


def _depends_on(trace, term, tensors):
    begin = Value(Context(trace.graph), term)
    return any(value.tensor in tensors for value in walk([begin], _sources))


def _sources(value):
    return [edge.source for edge in edges(value)]
