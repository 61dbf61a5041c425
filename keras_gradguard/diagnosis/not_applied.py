"""Gradients that are there, and weights that do not move."""

import collections
import dataclasses

import keras

from keras_gradguard.graph.backward import Gradients
from keras_gradguard.graph.ops import is_finite, is_zero
from keras_gradguard.model.optimizers import optimizers_of, schedule_of
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.declared import Declarations

# More than these have one cause in common.
_MOST_LAYERS = 3


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
    rates = [r for held in optimizers for r in _rates(held)]
    evidence = {"learning_rate": max(rates)} if rates else {}
    schedules = [name for held in optimizers if (name := schedule_of(held))]
    if schedules:
        evidence["schedule"] = schedules[0]
    groups = collections.defaultdict(list)
    for path in paths:
        layer = path.rpartition("/")[0] or None
        if rates and not any(rates):
            groups["learning_rate", None].append(path)
        elif getattr(named[path], "constraint", None) is not None:
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


def _rates(optimizer):
    """The learning rates of an optimizer, or of those that it wraps."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    several = getattr(optimizer, "optimizers", None)
    if several is not None:
        return [rate for inner in several for rate in _rates(inner)]
    return [abs(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))]


def dropped_findings(step, applied):
    """Explains variables that have a gradient and that no optimizer gets.

    Args:
        step: The `Step`, its `data` a batch or `None`.
        applied: The variables that the optimizers got in the training.

    Returns:
        A list of `Finding`s, empty where a custom step leaves them out.
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
    groups = collections.defaultdict(list)
    for path in alive:
        if id(dropped[path]) in meant:
            groups["trainable_changed", path.rpartition("/")[0]].append(path)
        elif foreign is not None:
            groups["other_variables", None].append(path)
    declared = Declarations(step.model)
    return [
        Finding(
            kind="not_applied",
            cause=cause,
            layer=layer,
            place=foreign or Place()
            if layer is None
            else declared.place(layer, variable=dropped[members[0]]) or Place(),
            variables=tuple(members),
        )
        for (cause, layer), members in groups.items()
    ]


def _with_gradient(recorded, variables):
    """The paths whose gradient is there, finite and not zero."""
    found = []
    for call in recorded.targets:
        gradients = Gradients(recorded.graph, call, lambda pullback: None)
        for path, variable in variables.items():
            if not call.is_about(variable):
                continue
            gradient = gradients.array(variable)
            is_there = gradient is not None and not is_zero(gradient)
            if is_there and is_finite(gradient) and path not in found:
                found.append(path)
    return found


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
