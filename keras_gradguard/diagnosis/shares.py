"""How much of a loss each addend is."""

import dataclasses

from keras_gradguard.diagnosis.addends import (
    SHARE,
    Verdicts,
    may_be_cut,
    sums_in,
    verdicts_at,
)
from keras_gradguard.diagnosis.cuts import Location
from keras_gradguard.graph.sums import TooLong, contributions


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
