"""Step 4: sorts the variables of a traced step by what they lack."""

import dataclasses

import keras

from keras_gradguard.diagnosis.locate import Location
from keras_gradguard.diagnosis.outside import outside_findings
from keras_gradguard.diagnosis.readout import read_findings
from keras_gradguard.diagnosis.unused import unused_findings

_BRANCH_NOTE = "only when this branch is taken: the other one passes a gradient"


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step to ask about.

    Args:
        model: The compiled model.
        data: The batch as `train_step` gets it.
        variables: The trainable variables that the step should train.
        paths: Their paths, unique, in the same order.
        trace: What the step has shown, a `Trace`; by default it is traced
            when a question needs it.
        answers: What was asked of the traced step before; it is filled.
    """

    model: keras.Model
    data: object
    variables: tuple
    paths: tuple[str, ...]
    trace: object = None
    answers: dict = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def answer(self, ask, *given):
        """Returns what a function says of the step; asks it once a trace.

        Args:
            ask: The function, called as `ask(step, *given)` for the same
                variables and the same `given` once.
            given: What else it takes, hashable.
        """
        key = (ask, tuple(map(id, self.variables)), given)
        if key not in self.answers:
            self.answers[key] = ask(self, *given)
        return self.answers[key]


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
