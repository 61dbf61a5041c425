"""Reports and diagnoses: plain values, no TensorFlow.

Every view (console, exception, JSON, TensorBoard, notebook) is made from
these records and drops no field of them.
"""

import dataclasses
import hashlib
import html
import json
import math

from keras_gradguard.records.health import (
    LossReach,
    OptimizerHealth,
    VariableHealth,
)
from keras_gradguard.records.kinds import (
    BROKEN,
    HEALTHY,
    NOT_CHECKED,
    SCHEMA,
    UNDECIDED,
)
from keras_gradguard.records.text import render, render_report


def digest_of(text):
    """Returns the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Patch:
    """A change of the user's file that was tried and helps.

    Args:
        file: The file, as Python names it.
        digest: SHA-256 of its text before the change, in hexadecimal.
        changes: `(line, old lines, new lines)`s in ascending order: the
            number of the first line that goes, from 1, and lists of lines
            without their ends.
    """

    file: str
    digest: str
    changes: tuple

    def to_dict(self):
        """Returns the fields as JSON-ready values."""
        changes = [
            [line, list(old), list(new)] for line, old, new in self.changes
        ]
        return {"file": self.file, "digest": self.digest, "changes": changes}


@dataclasses.dataclass(frozen=True)
class Help:
    """One way to correct the code.

    Args:
        text: What to do, imperative, one line.
        before: An example of the wrong code, or the user's own lines where
            the change was checked; `None` for neither.
        after: The same code, corrected, or `None`.
        checked: What was found when the change was tried, and what it does
            to the value; `None` for general advice, which was not tried.
        patch: The change of the user's file, a `Patch`, if it was checked.
    """

    text: str
    before: str | None = None
    after: str | None = None
    checked: str | None = None
    patch: Patch | None = None

    def to_dict(self):
        """Returns the fields that are set, JSON-ready."""
        values = {name: getattr(self, name) for name in _PLAIN}
        if self.checked is not None:
            values["checked"] = self.checked
        if self.patch is not None:
            values["patch"] = self.patch.to_dict()
        return values


_PLAIN = ("text", "before", "after")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """One broken gradient, explained. The fields are a contract (schema 1).

    Args:
        schema: Version of this record.
        code: Code of the rule, e.g. `"GG104"`.
        name: Name of the rule, e.g. `"argmax"`.
        kind: One of `KINDS`.
        severity: `"error"` (no trainable variable learns), `"warning"`
            (some do not) or `"note"`.
        message: One sentence that makes sense alone.
        why: The general reason, at most two sentences.
        help: Ways to correct it, the safest first.
        file: File of the user's line, or `None`.
        line: Number of that line, or `None`.
        function: Function that contains it, or `None`.
        snippet: Source lines around it.
        op: Type of the op at fault, or `None`.
        layer: Keras path of the layer that runs the op, or `None`.
        loss: The loss, output or `add_loss` term concerned, or `None`.
        variables: Keras paths of the affected trainable variables.
        num_variables: Total number of trainable variables, including those
            that Keras does not track.
        path: Op types from the loss to the cut.
        step: Training step, from 0, or `None`.
        epoch: Epoch, from 0, or `None`.
        evidence: Measured values; `"notes"` holds further facts and
            `"snippet_start"` the number of the first line of the snippet.
        certainty: `"proved"` or `"suspected"`.
    """

    code: str
    name: str
    kind: str
    severity: str
    message: str
    why: str
    help: tuple[Help, ...] = ()
    file: str | None = None
    line: int | None = None
    function: str | None = None
    snippet: tuple[str, ...] = ()
    op: str | None = None
    layer: str | None = None
    loss: str | None = None
    variables: tuple[str, ...] = ()
    num_variables: int = 0
    path: tuple[str, ...] = ()
    step: int | None = None
    epoch: int | None = None
    evidence: dict = dataclasses.field(default_factory=dict)
    certainty: str = "proved"
    schema: int = SCHEMA

    @property
    def key(self):
        """What identifies a diagnosis across steps."""
        known = (self.code, self.file, self.line, self.loss)
        return known if self.line is not None else (*known, self.variables)

    def to_dict(self):
        """Returns the record as JSON-ready values, every field of it."""
        values = {"schema": self.schema}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values[field.name] = list(value) if type(value) is tuple else value
        values["help"] = [item.to_dict() for item in self.help]
        values["evidence"] = dict(self.evidence)
        return values

    def __str__(self):
        return render(self)

    def _repr_html_(self):
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclasses.dataclass(frozen=True)
class Undecided:
    """Variables whose gradient may be broken: too few steps to decide.

    Args:
        status: The status of their rows.
        variables: Their paths.
        text: What was seen so far, and when there will be a verdict: a
            sentence without its subject.
    """

    status: str
    variables: tuple[str, ...]
    text: str

    def to_dict(self):
        """Returns it as JSON-ready values."""
        return {
            "status": self.status,
            "variables": list(self.variables),
            "text": self.text,
        }

    def __str__(self):
        number = len(self.variables)
        return f"{number} variable{'s' * (number != 1)} {self.text}"


@dataclasses.dataclass(frozen=True)
class Report:
    """The state of a model's gradients at one moment.

    Args:
        diagnoses: The findings, those that affect most variables first.
        variables: One `VariableHealth` for each trainable variable, or for
            each of its updates if a step makes several.
        global_norm: L2 norm over all gradients, or `None`.
        step: Step of the last measurement, or `None`.
        optimizers: One `OptimizerHealth` for each optimizer that got gradients.
        losses: One `LossReach` for each term, if the loss is a sum of
            several; their columns are those of `variables`.
        not_checked: Why some or all gradients were not checked: one
            sentence, or `None`.
        undecided: An `Undecided` for each group of variables without a
            verdict yet.
        num_steps: Number of steps so far, `None` if unknown.
        num_skipped: Number of steps skipped by `on_nonfinite="skip"`, `None`
            with any other setting.
    """

    diagnoses: tuple[Diagnosis, ...] = ()
    variables: tuple[VariableHealth, ...] = ()
    global_norm: float | None = None
    step: int | None = None
    optimizers: tuple[OptimizerHealth, ...] = ()
    losses: tuple[LossReach, ...] = ()
    not_checked: str | None = None

    undecided: tuple[Undecided, ...] = ()
    num_steps: int | None = None
    num_skipped: int | None = None

    @property
    def verdict(self):
        """The verdict on the gradients.

        Returns:
            `"broken"` if there is an error or a warning; otherwise
            `"not checked"` if some gradients were not checked; `"undecided"`
            if a gradient is missing, zero, not finite or not measured and
            neither accepted nor explained; `"healthy"`.
        """
        if any(d.severity != "note" for d in self.diagnoses):
            return BROKEN
        if self.not_checked is not None:
            return NOT_CHECKED
        is_open = any(
            row.status != "ok" and row.accepted is None
            for row in self.variables
        )
        return UNDECIDED if self.undecided or is_open else HEALTHY

    @property
    def ok(self):
        """Whether the verdict is `"healthy"`."""
        return self.verdict == HEALTHY

    def to_dict(self):
        """Returns the report as JSON-ready values."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "ok": self.ok,
            "step": self.step,
            "global_norm": self.global_norm,
            "diagnoses": [d.to_dict() for d in self.diagnoses],
            "variables": [v.to_dict() for v in self.variables],
            "optimizers": [o.to_dict() for o in self.optimizers],
            "losses": [loss.to_dict() for loss in self.losses],
            "not_checked": self.not_checked,
            "undecided": [item.to_dict() for item in self.undecided],
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
        }

    def to_json(self, **kwargs):
        """Returns `to_dict()` as JSON; NaN and Inf become strings.

        Args:
            **kwargs: Passed on to `json.dumps`, e.g. `indent=2`.
        """
        return json.dumps(finite(self.to_dict()), **kwargs)

    def __str__(self):
        return render_report(self)

    def _repr_html_(self):
        return f"<pre>{html.escape(str(self))}</pre>"


def finite(value):
    """Makes a value that strict JSON can hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
