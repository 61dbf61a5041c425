"""Gradients that are there, and weights that do not move."""

import collections
import dataclasses
import math

import keras
import numpy as np

from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.diagnosis.untracked import is_taped
from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.edges import written_tensors
from keras_gradguard.graph.ops import is_finite, is_zero
from keras_gradguard.model.layers import is_default_step
from keras_gradguard.model.optimizers import (
    learning_rates,
    optimizers_of,
    schedule_object,
    schedule_of,
    variables_of,
)
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.assigned import RateLines, unfreezing_place
from keras_gradguard.source.declared import Declarations

# More than these have one cause in common.
_MOST_LAYERS = 3


# Half of what float32 tells apart at 1: Adam moves no weight of that size by
# a smaller rate.
_TOO_SMALL, _INVALID = "tiny_learning_rate", "invalid_learning_rate"
_TINY = 2.0**-24
# Of the largest element of a gradient.
_ROUNDING = 1e-4
# To ask a schedule takes a millisecond, to read a rate a third of one: so at
# the records 1, 2, 4, 8 and so on, and at each multiple of these numbers.
_ASKED_EVERY, _READ_EVERY = 64, 8


class LearningRates:
    """Follows the learning rates of one training.

    Args:
        model: The model that trains.
        callbacks: Returns the callbacks of the `fit` that runs, a list.

    Attributes:
        hit: Paths of the variables whose rate has been reported, a set.
    """

    def __init__(self, model, callbacks):
        self._model, self._callbacks = model, callbacks
        self._first, self._reported = {}, {}
        self._num_records, self.hit = 0, set()

    def invalid(self, captures, named):
        """Finds rates that are negative or not finite, at one record.

        A step of the user's own may climb with a negative rate.

        Args:
            captures: What is measured of each update: its `optimizer` and
                `variables`.
            named: Returns a dict of the trainable variables by path.

        Returns:
            A list of `Finding`s that are new.
        """
        self._num_records += 1
        number, found = self._num_records, []
        is_early = number & (number - 1) == 0
        may_climb = not is_default_step(self._model)
        for capture in captures:
            has_schedule = schedule_of(capture.optimizer)
            every = _ASKED_EVERY if has_schedule else _READ_EVERY
            if not is_early and number % every:
                continue
            for own, rate in learning_rates(capture.optimizer):
                self._first.setdefault(id(own), rate)
                is_wrong = rate < 0.0 and not may_climb
                if is_wrong or not math.isfinite(rate):
                    paths = _trained_by(own, capture, named)
                    found += self._found(_INVALID, own, rate, paths)
        return found

    def behind_bad_step(self, captures, named, update, is_weight):
        """Finds the rates that have made a step NaN or infinite.

        Args:
            captures: See `invalid`.
            named: See `invalid`.
            update: Number of the update before that step, from 0.
            is_weight: Whether the weights were NaN or infinite before it.

        Returns:
            A list of `Finding`s, those reported earlier included.
        """
        if is_weight:
            for capture in captures:
                for own, rate in learning_rates(capture.optimizer, update):
                    if not math.isfinite(rate):
                        paths = _trained_by(own, capture, named)
                        self._found(_INVALID, own, rate, paths)
        return [f for f in self._reported.values() if f.cause == _INVALID]

    def too_small(self, captures, named, still, largest):
        """Finds rates that change no weight.

        Args:
            captures: See `invalid`.
            named: See `invalid`.
            still: Paths of variables that stand still, with a gradient.
            largest: The largest element of a gradient.

        Returns:
            A list of `Finding`s that are new, each of all variables that an
            optimizer trains.
        """
        found = []
        for capture in captures:
            for own, rate in learning_rates(capture.optimizer):
                paths = _trained_by(own, capture, named)
                step = 0.0 if rate == 0.0 else abs(rate) * max(1.0, largest)
                if step < _TINY and not set(still).isdisjoint(paths):
                    cause = (
                        "learning_rate" if not rate else "tiny_learning_rate"
                    )
                    found += self._found(cause, own, rate, paths)
        return found

    def _found(self, cause, optimizer, rate, paths):
        key = id(optimizer), cause == _INVALID
        if key in self._reported:
            return []
        schedule = schedule_object(optimizer)
        evidence = {"learning_rate": rate}
        if schedule is not None:
            evidence["schedule"] = type(schedule).__name__
        first = self._first.get(id(optimizer), rate)
        has_changed = first != rate and not math.isnan(first)
        place = RateLines(self._callbacks()).place(
            optimizer, schedule, rate, has_changed
        )
        self._reported[key] = Finding(
            kind="not_applied",
            cause=cause,
            place=place,
            variables=tuple(paths),
            evidence=evidence,
        )
        self.hit.update(paths)
        return [self._reported[key]]


def _trained_by(optimizer, capture, named):
    """The paths of what one optimizer of an update trains."""
    known = set(map(id, variables_of(optimizer)))
    known.intersection_update(map(id, capture.variables))
    return [path for path, variable in named().items() if id(variable) in known]


def still_findings(step, paths, declared):
    """Explains weights that an optimizer was given and did not move.

    Args:
        step: The `Step`.
        paths: Paths of variables with a finite gradient that is not zero.
        declared: Returns the `Place` that declares a variable's layer.

    Returns:
        A list of `Finding`s, one per cause and layer.
    """
    named = dict(zip(step.paths, step.variables, strict=True))
    optimizers = optimizers_of(step.model)
    rates = [abs(r) for held in optimizers for _, r in learning_rates(held)]
    evidence = {"learning_rate": max(rates)} if rates else {}
    schedules = [name for held in optimizers if (name := schedule_of(held))]
    if schedules:
        evidence["schedule"] = schedules[0]
    groups = collections.defaultdict(list)
    for path in paths:
        layer = path.rpartition("/")[0] or None
        if getattr(named[path], "constraint", None) is not None:
            groups["constraint", layer].append(path)
        else:
            groups["unexplained", layer].append(path)
    alone = [key for key in groups if key[0] == "unexplained"]
    if len(alone) > _MOST_LAYERS:
        together = [path for key in alone for path in groups.pop(key)]
        groups["unexplained", None] = together
    return [
        Finding(
            kind="not_applied",
            cause=cause,
            layer=layer,
            place=Place() if layer is None else declared(members[0]),
            variables=tuple(members),
            evidence=dict(evidence),
            certainty="suspected" if cause == "constraint" else "proved",
            variable_dtypes=_dtypes(named[path] for path in members),
        )
        for (cause, layer), members in groups.items()
    ]


def _dtypes(variables):
    return tuple(
        dict.fromkeys(
            keras.backend.standardize_dtype(v.dtype) for v in variables
        )
    )


def dropped_findings(step, applied, frozen=(), callbacks=()):
    """Explains variables that have a gradient and that no optimizer gets.

    Args:
        step: The `Step`, its `data` a batch or `None`.
        applied: The variables that the optimizers got in the training.
        frozen: Ids of those variables of the model that were not trainable
            as a `fit` began.
        callbacks: The callbacks of that `fit`.

    Returns:
        A list of `Finding`s; one of what a custom step leaves out is
        suspected.
    """
    known = set(map(id, applied))
    dropped = {
        path: variable
        for path, variable in zip(step.paths, step.variables, strict=True)
        if id(variable) not in known
    }
    if not dropped or step.data is None:
        return []
    recorded = step.evidence.recorded()
    alive = _with_gradient(recorded, dropped)
    own = set(map(id, step.model.variables))
    foreign, meant = None, set()
    for (variables, _), place in zip(
        recorded.applied, recorded.callers, strict=True
    ):
        meant |= set(map(id, variables))
        if variables and not any(id(v) in own for v in variables):
            foreign = place
    written = written_tensors(recorded.graph)
    groups = collections.defaultdict(list)
    for path, gradient in alive.items():
        is_in_fit = id(dropped[path]) in frozen
        handles = recorded.graph.standing_for(dropped[path])
        if id(dropped[path]) in meant:
            groups["trainable_changed", is_in_fit, None].append(path)
        elif foreign is not None:
            groups["other_variables", False, foreign].append(path)
        elif written.isdisjoint(handles):
            place = _place_of_other(recorded, gradient)
            if place is not None:
                groups["given_to_others", False, place].append(path)
    declared = Declarations(step.model)
    findings = _left_out(step, recorded, dropped, meant)
    for (cause, is_in_fit, place), members in groups.items():
        layers = {path.rpartition("/")[0] for path in members}
        layer = None
        if cause == "trainable_changed" and len(layers) == 1:
            (layer,) = layers
            place = declared.place(layer, variable=dropped[members[0]])
        evidence = {}
        if is_in_fit:
            evidence["changed"] = "inside fit"
            known = unfreezing_place(callbacks)
            place = place if known.line is None else known
        findings.append(
            Finding(
                kind="not_applied",
                cause=cause,
                layer=layer,
                place=place or Place(),
                variables=tuple(members),
                evidence=evidence,
            )
        )
    return findings


def _with_gradient(recorded, variables):
    """Path -> gradient, where that is there, finite and not zero."""
    found = {}
    for call in recorded.targets:
        gradients = Gradients(recorded.graph, call, lambda pullback: None)
        for path, variable in variables.items():
            if not call.is_about(variable):
                continue
            gradient = gradients.array(variable)
            is_there = gradient is not None and not is_zero(gradient)
            if is_there and is_finite(gradient):
                found.setdefault(path, gradient)
    return found


def _place_of_other(recorded, gradient):
    """Where the gradient of one variable is applied to another one."""
    for (_, applied), place in zip(
        recorded.applied, recorded.callers, strict=True
    ):
        for other in map(recorded.graph.oracle.array, applied):
            if other is None or other.shape != gradient.shape:
                continue
            # The sums of the tape may be those of another order.
            limit = _ROUNDING * np.abs(gradient).max()
            if np.allclose(other, gradient, atol=limit):
                return place
    return None


def _left_out(step, recorded, dropped, meant):
    """Finds what a loss depends on, and no tape of the step asks for.

    It may be meant: another phase of the training, a part that is to stay as
    it is.
    """
    if is_default_step(step.model):
        return []
    written = written_tensors(recorded.graph)
    known = {
        path: variable
        for path, variable in dropped.items()
        if id(variable) not in meant
        and written.isdisjoint(recorded.graph.standing_for(variable))
    }
    location = Location(
        recorded, step.model, tuple(known.values()), tuple(known)
    )
    groups = collections.defaultdict(list)
    for number, path in enumerate(known):
        if location.was_asked_for(number):
            continue
        for call in recorded.targets:
            inside = location.of_losses(call.targets)
            if inside.distance(number) == 0 and is_taped(inside, number):
                groups[call.caller].append(path)
                break
    return [
        Finding(
            kind="not_applied",
            cause="left_out",
            place=place,
            variables=tuple(members),
            certainty="suspected",
        )
        for place, members in groups.items()
    ]


_NO_CALL = (
    "no optimizer was called with these variables: "
    "`optimizer.apply(gradients, variables)` does that"
)


def never_applied(step, eager=None):
    """Says which gradients a loop asks for and never applies.

    Args:
        step: The `Step`, of a loop that has made no update.
        eager: The `Trace` of what ran eagerly beside it, or `None`.

    Returns:
        A list of `Finding`s, one for each line that asks.
    """
    trace = step.evidence.traced()
    if trace.error is not None:
        return []
    graphs = [trace.graph] if eager is None else [trace.graph, eager.graph]
    written = [(graph, written_tensors(graph)) for graph in graphs]
    location = Location(trace, step.model, step.variables, step.paths)
    groups = collections.defaultdict(list)
    for number, variable in enumerate(step.variables):
        calls = [c for c in trace.targets if c.is_about(variable)]
        # A loop may well move its weights by itself.
        is_kept = all(
            handles.isdisjoint(graph.standing_for(variable))
            for graph, handles in written
        )
        if calls and is_kept and location.distance(number) == 0:
            groups[calls[-1].caller].append(step.paths[number])
    return [
        Finding(
            kind="not_applied",
            cause="never_applied",
            place=place,
            variables=tuple(members),
            notes=(_NO_CALL,),
        )
        for place, members in groups.items()
    ]


def unknown_findings(step, unknown):
    """Explains an optimizer's refusal of variables that it does not know.

    Args:
        step: The `Step`; its variables are those that it was given.
        unknown: The variables that it does not know.
    """
    paths = dict(zip(map(id, step.variables), step.paths, strict=True))
    hit = tuple(paths[id(variable)] for variable in unknown)
    layer = hit[0].rpartition("/")[0] or None
    if len(unknown) == len(step.variables):
        found = Finding(kind="not_applied", cause="other_variables")
        return [dataclasses.replace(found, variables=hit)]
    place = Declarations(step.model).place(layer, variable=unknown[0])
    return [
        Finding(
            kind="not_applied",
            cause="trainable_changed",
            layer=layer,
            place=place or Place(),
            variables=hit,
        )
    ]
