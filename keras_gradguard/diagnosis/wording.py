"""Puts findings into words with the rules."""

import dataclasses
import os
import textwrap

from keras_gradguard import rules
from keras_gradguard.records.report import Diagnosis
from keras_gradguard.source.dialect import Dialect
from keras_gradguard.source.syntax import call_at


def diagnoses_of(
    findings, num_variables, severity, step=None, epoch=None, patches=None
):
    """Turns findings into diagnoses, one per cut.

    Args:
        findings: `Finding`s.
        num_variables: Number of trainable variables in all.
        severity: One of `records.SEVERITIES`.
        step: Training step, or `None`.
        epoch: Epoch, or `None`.
        patches: Has `about(finding, code)`, which returns the `Help` with a
            patch that was checked, or `None`.

    Returns:
        A tuple of `Diagnosis`, in the order of the findings.
    """
    merged = {}
    for finding in findings:
        rule = rules.match(finding)
        place = finding.place
        key = (rule.code, place.file, place.line, finding.loss)
        if place.line is None:
            key += (finding.layer, finding.op)
        if key in merged:
            known = merged[key][1]
            both = dict.fromkeys((*known.variables, *finding.variables))
            notes = dict.fromkeys((*known.notes, *finding.notes))
            finding = dataclasses.replace(
                known, variables=tuple(both), notes=tuple(notes)
            )
        merged[key] = (rule, finding)
    found = []
    for rule, finding in merged.values():
        advice = rule.advice(
            dataclasses.replace(
                finding, step=step, call=call_at(finding.place)
            ),
            Dialect.at(finding.place).spell,
        )
        patch = None
        if patches is not None and severity != "note":
            patch = patches.about(finding, rule.code)
        if patch is not None:
            advice = (patch,)
        found.append(
            _diagnosis(
                rule, finding, advice, num_variables, severity, step, epoch
            )
        )
    return tuple(found)


def _diagnosis(rule, finding, advice, num_variables, severity, step, epoch):
    place = finding.place
    evidence = {**finding.evidence}
    notes = list(finding.notes)
    if place.is_changed:
        notes.append(
            f"{os.path.basename(place.file)} has changed since its code was "
            "imported, so its lines are not shown"
        )
    if notes:
        evidence["notes"] = notes
    if place.snippet_start is not None:
        evidence["snippet_start"] = place.snippet_start
    if finding.exception:
        evidence["exception"] = finding.exception
        evidence["error"] = textwrap.shorten(
            finding.error.strip().splitlines()[-1], 200, placeholder=" ..."
        )
    words = {
        "op": finding.op,
        "layer": finding.layer,
        "loss": finding.loss,
        "function": place.function,
        "source": place.source,
    }
    return Diagnosis(
        code=rule.code,
        name=rule.name,
        kind=finding.kind,
        severity=severity,
        message=rule.message.format(**words),
        why=rule.why,
        help=advice,
        file=place.file,
        line=place.line,
        function=place.function,
        snippet=place.snippet,
        op=finding.op,
        layer=finding.layer,
        loss=finding.loss,
        variables=finding.variables,
        num_variables=num_variables,
        path=finding.path,
        step=step,
        epoch=epoch,
        evidence=evidence,
        certainty=finding.certainty,
    )
