"""Step 4: which term of a step's loss reaches which variable."""

from keras_gradguard.diagnosis.addends import LOSS, OTHER, addends_of
from keras_gradguard.diagnosis.flow import Flow
from keras_gradguard.diagnosis.locate import Location
from keras_gradguard.rows import LossReach


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
    addends = addends_of(step.model, trace)
    for addend in addends:
        values, calls = [], []
        for value in addend.values:
            via = [call for call, flow in entered if flow.distance(value) == 0]
            values += [value] if via else []
            calls += via
        location = _location(step, trace, losses=values)
        found.append(
            LossReach(
                addend.name,
                addend.kind,
                tuple(
                    location.was_asked_for(n, calls)
                    and location.distance(n) == 0
                    for n in everything
                ),
            )
        )
    known = [value for addend in addends for value in addend.values]
    rest = _location(step, trace, stops=known)
    is_left = tuple(
        rest.was_asked_for(n) and rest.distance(n) == 0 for n in everything
    )
    if addends and any(is_left):
        found.append(LossReach(OTHER, LOSS, is_left))
    return found


def _flow(trace, call):
    return Flow(trace.graph, call.targets)


def _location(step, trace, **arguments):
    return Location(trace, step.model, step.variables, step.paths, **arguments)
