"""How much of a loss each addend is."""

import dataclasses

import keras
import numpy as np

from keras_gradguard.diagnosis.addends import (
    SHARE,
    Verdicts,
    explain_addends,
    may_be_cut,
    sums_in,
    verdicts_at,
)
from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.diagnosis.outside_tape import cause_of
from keras_gradguard.graph.ops import DATA
from keras_gradguard.graph.sums import TooLong, contributions
from keras_gradguard.records.finding import Finding
from keras_gradguard.source.syntax import feeds_result

_OUTSIDE = (
    "this term is {} of the loss and trains nothing: its value changes with "
    "the weights, but TensorFlow treats it as a constant"
)


def shares_of(step, trace, verdicts):
    """Returns the share of the loss that each addend is, in a recorded step.

    Args:
        step: The `Step` that the verdicts are about.
        trace: The `Trace` of the step with its values.
        verdicts: What `explain_addends` has returned.

    Returns:
        A dict of the `Verdicts.terms` to the share of each, 0 to 1, `None`
        where its weight is zero; without those where it cannot be told.
    """
    if trace.error is not None:
        return {}
    location = Location(trace, step.model, step.variables, step.paths)
    return _shares_in(location, verdicts)


def _shares_in(location, verdicts):
    shares = {}
    try:
        for number, (_, _, total) in enumerate(sums_in(location)):
            keys = [key for key in set(verdicts.terms) if key[0] == number]
            wanted = [total.at(path) for _, path in keys]
            if not wanted or None in wanted:
                continue
            found = contributions(total, wanted)
            if found is None:
                continue
            loss, parts = found
            rest = loss - sum(part for part, _ in parts)
            size = abs(rest) + sum(abs(part) for part, _ in parts)
            for key, (part, is_weighted) in zip(keys, parts, strict=True):
                shares[key] = abs(part) / size if size else 0.0
                if not is_weighted:
                    shares[key] = None
    except TooLong:
        return {}
    return shares


def measured(verdicts, shares):
    """Puts the shares of addends into findings.

    Args:
        verdicts: `Verdicts`.
        shares: What `shares_of` has returned.

    Returns:
        `Verdicts` without those addends whose weight is zero.
    """
    findings, terms = [], []
    for finding, number in zip(verdicts.findings, verdicts.terms, strict=True):
        share = shares.get(number)
        if number in shares and share is None:
            continue
        evidence = dict(finding.evidence)
        texts = evidence.pop("texts")
        note = texts[1]
        if share is not None:
            evidence["share"] = share
            note = texts[0].replace(SHARE, _percent(share))
        findings.append(
            dataclasses.replace(
                finding, evidence=evidence, notes=(note, *finding.notes)
            )
        )
        terms.append(number)
    return dataclasses.replace(
        verdicts, findings=tuple(findings), terms=tuple(terms)
    )


def _percent(share):
    if 0 < share < 0.01:
        return "less than 1 %"
    return f"{100 * share:.0f} %"


def explain_addends_of_loss(evidence):
    """Judges each addend of a loss alone.

    Args:
        evidence: What looks at the loss, see `graph.trace`.

    Returns:
        `Verdicts`, their findings without variables.
    """
    trace, recorded = evidence.traced(), evidence.recorded()
    if trace.error is not None or not may_be_cut(trace.graph, is_alone=True):
        return Verdicts()
    found = verdicts_at(Location.of_prediction(trace))
    shares = {}
    if found.findings and recorded.error is None:
        (call,) = recorded.targets
        paths = ["y_pred"] * len(call.sources)
        location = Location(recorded, None, call.sources, paths)
        shares = _shares_in(location, found)
    found, name = measured(found, shares), evidence.loss.name
    return dataclasses.replace(
        found,
        findings=tuple(
            dataclasses.replace(finding, variables=(), loss=name)
            for finding in found.findings
        ),
    )


def explain_outside(step, evidence):
    """Judges the addends of an eager step that cannot be traced.

    Args:
        step: The `Step`.
        evidence: What looks at it, on the very batch.

    Returns:
        `Verdicts`, their findings with shares.
    """
    trace = evidence.rerun(step.variables)
    if trace is None or trace.error is not None:
        return Verdicts()
    found = explain_addends(step, trace, is_judged=False)
    found = measured(found, shares_of(step, trace, found))
    outside = _left_outside(step, trace, evidence)
    terms = (*found.terms, *(None for _ in outside))
    return dataclasses.replace(
        found, findings=(*found.findings, *outside), terms=terms
    )


def _left_outside(step, trace, evidence):
    """Findings of addends whose value has left TensorFlow.

    That such a constant depends on the weights is seen by changing them.
    """
    read = _only_read(step, trace)
    if read is None:
        return []
    weights = [(v, _value_of(v)) for v in step.variables]
    moved = [(variable, 0.1 - 1.5 * value) for variable, value in weights]
    runs = [evidence.recorded(one) for one in (weights, weights, moved)]
    if any(run.error is not None for run in runs):
        return []
    first, again, other = (_constants(step, run) for run in runs)
    share = sum(
        share
        for path, (share, value) in first.items()
        if again.get(path, (0, None))[1] == value
        and other.get(path, (0, value))[1] != value
    )
    if not share:
        return []
    hit = _location(step, trace).of_losses([read.tensor])
    numbers = range(len(step.variables))
    paths = [step.paths[n] for n in numbers if hit.distance(n) < float("inf")]
    return [
        Finding(
            kind="untraceable",
            cause=cause_of(read),
            place=read.place,
            variables=tuple(paths),
            notes=(_OUTSIDE.format(_percent(share)),),
            evidence={"addend": True, "share": share},
        )
    ]


def _value_of(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def _location(step, trace):
    return Location(trace, step.model, step.variables, step.paths)


def _only_read(step, trace):
    """The one line that takes numbers, made of the weights, to a loss."""
    reads = {}
    ends = [t.op.number for call in trace.targets for t in call.targets]
    location = _location(step, trace)
    for read in trace.read if ends else ():
        if read.tensor.op.number >= max(ends) or not feeds_result(read.place):
            continue
        before = location.of_losses([read.tensor])
        everything = range(len(step.variables))
        if any(before.distance(n) < float("inf") for n in everything):
            reads.setdefault((read.place.file, read.place.line), read)
    (read,) = reads.values() if len(reads) == 1 else (None,)
    return None if read and read.cause == "tensor_as_bool" else read


def _constants(step, trace):
    """`(share, contribution)` of each addend that no weight is seen in."""
    found = {}
    try:
        for number, (_, dependence, total) in enumerate(
            sums_in(_location(step, trace))
        ):
            leaves = [
                (path, leaf)
                for path, leaf in total.leaves()
                if not dependence.of(leaf.value).variables
                and leaf.value.tensor.kind == DATA
            ]
            parts = contributions(total, [leaf for _, leaf in leaves])
            if not leaves or parts is None:
                continue
            loss, parts = parts
            size = abs(loss - sum(part for part, _ in parts))
            size += sum(abs(part) for part, _ in parts)
            for (path, _), (part, is_weighted) in zip(
                leaves, parts, strict=True
            ):
                if is_weighted and size:
                    found[number, path] = abs(part) / size, part
    except TooLong:
        return {}
    return found
