"""What the numbers of the steps show, and why."""

import dataclasses
import math
import zlib

import keras

from keras_gradguard.diagnosis.divergence import (
    WeightNorms,
    divergence,
    has_diverged,
    is_of_size,
    values_in,
)
from keras_gradguard.diagnosis.heads import LABELS, uncounted_findings
from keras_gradguard.diagnosis.not_applied import (
    LearningRates,
    dropped_findings,
    still_findings,
)
from keras_gradguard.diagnosis.questions import (
    explain_derivatives,
    explain_jumps,
    explain_zeros,
    misfit_findings,
    with_trained,
)
from keras_gradguard.diagnosis.underflow import Underflow, scaling_findings
from keras_gradguard.diagnosis.zeros import ALWAYS_ZERO, zero_findings
from keras_gradguard.measure.figures import OverwrittenFigures
from keras_gradguard.measure.trends import Trends
from keras_gradguard.model.layers import runs_eagerly
from keras_gradguard.model.optimizers import is_overwritten
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.declared import Declarations

# A set of variables that changes from record to record is not replayed for
# ever.
_MOST_REPLAYS = 5
# One record is one batch: it may be of any kind.
_FEWEST = 2
# Weights that have grown by less are not what makes a gradient grow.
_GROWN = 2.0
# Weights of no more elements are measured as a whole.
_MEASURED_WHOLE = 4096
# Causes of a bad step whose gradient is not what is wrong.
_SPOILED = {"weight", "spoiled_weight", "update"}


class Symptoms:
    """Follows the numbers of one training.

    Args:
        hook: The hook of the model.
        log: The `TrainingLog`.
        thresholds: The `Thresholds`.
        expected: The `Expected` variables without a gradient.

    Attributes:
        wants_next: Whether the next step is to be recorded, due or not.
        may_ask: Whether it is then: not where the user says which steps are.
    """

    def __init__(self, hook, log, thresholds, expected):
        self._hook = hook
        self._model = hook.model
        self._log = log
        self._expected = expected
        self._trends = Trends(thresholds)
        self._overwritten = OverwrittenFigures(is_overwritten)
        self._underflow = Underflow(thresholds)
        self._rates = LearningRates(hook.model, lambda: hook.callbacks)
        self._weights = WeightNorms(hook.model)
        self._patience = thresholds.patience
        self._num_records, self._num_replays = 0, 0
        self._last_step, self._num_next = None, 0
        self.wants_next, self.may_ask = False, True
        self._first_zeros = []
        self._asked, self._told, self._lost = set(), set(), set()
        self._dropped_before, self._values = set(), {}
        # A loop may begin a step after it has changed them.
        self._frozen = set()
        if hook.callbacks:
            self._frozen = set(map(id, hook.model.non_trainable_variables))

    def jumps(self, may_jump=True, told=()):
        """Returns the `Finding`s of a loss that jumps on the last batch.

        Args:
            may_jump: Whether a loss of an eager step may do that, as far as
                is known; the graph of a compiled one tells.
            told: `(file, line)`s of which more is known than that they jump.
        """
        batch, graph = self._hook.batch(), self._hook.graph
        is_ruled_out = runs_eagerly(self._model) and not may_jump
        if batch is None or is_ruled_out:
            return []
        step = self._step(batch)
        jumps = [
            jump
            for jump in explain_jumps(step, graph and graph())
            if (jump.place.file, jump.place.line) not in told
        ]
        return with_trained(step, jumps)

    def uncounted(self):
        """Returns the `Finding`s of a batch of which each label is ignored.

        A batch whose sample weights are all 0 is none: others may follow it,
        such as a stream that warms up.
        """
        batch = self._hook.batch()
        found = [] if batch is None else uncounted_findings(self._step(batch))
        return [f for f in found if "ignore_class" in f.evidence]

    def scalings(self):
        """Returns the `Finding`s of a loss scale that is used twice."""
        batch = self._hook.batch()
        return [] if batch is None else scaling_findings(self._step(batch))

    def explain(self, figures):
        """Says what a record and those before it show.

        Args:
            figures: The `Figures` of the variables, or `None`.

        Returns:
            A list of `Finding`s that are new.
        """
        self._num_records += 1
        if self._num_records == 1:
            self._weights.note()
        before, self._last_step = self._last_step, self._log.step
        is_next = None not in (before, self._last_step) and (
            self._last_step - before <= max(1, self._model.steps_per_execution)
        )
        self._num_next = self._num_next + 1 if is_next else 0
        moved_by_gradient = self._overwritten.without(figures, self._named)
        self._trends.add(moved_by_gradient, self._log.step)
        found = self._rates.invalid(self._hook.probe.captures, self._named)
        found += self._underflowing()
        lost = (f.variables for f in found if f.cause == "float16")
        self._lost |= {path for paths in lost for path in paths}
        self._told |= self._lost
        found += [*self._zero(), *self._fading(), *self._still()]
        if self._num_records % self._patience == 0:
            found += self._dropped()
        return self._expected.strip(found)

    def keep_zeros(self, zero):
        """Explains zeros of the first step of a loop, in case they last.

        Its batches are not known: nothing is replayed later.

        Args:
            zero: See `always_zero`.
        """
        trace = self._hook.recorded() if zero else None
        if trace is not None and trace.error is None:
            named = self._named()
            known = [path for path in zero if path in named]
            variables = [named[path] for path in known]
            self._first_zeros = zero_findings(
                trace, variables, known, self._model
            )

    def always_zero(self, zero):
        """Explains zeros of the first batch that no other data would change.

        Args:
            zero: Paths of variables whose gradient is exactly zero.

        Returns:
            A list of `Finding`s; each other zero may come of the data.
        """
        batch = self._hook.batch() if zero else None
        if batch is None:
            found = [f for f in self._first_zeros if f.cause in ALWAYS_ZERO]
            self.note_explained({p for f in found for p in f.variables})
            return found
        step = self._step(batch)
        found = explain_derivatives(step, zero) or [
            finding
            for finding in explain_zeros(step, zero)
            if finding.cause in ALWAYS_ZERO
        ]
        self.note_explained({p for f in found for p in f.variables})
        return found

    def rates_behind(self, findings, number):
        """Puts a learning rate in the place of the weights that it has broken.

        Args:
            findings: `Finding`s of a bad step.
            number: Its number.

        Returns:
            The `Finding`s of the rates, the given ones where there are none.
        """
        causes = {finding.cause for finding in findings}
        # The update that was taken back, or the one before the bad step.
        update = number if causes == {"update"} else number - 1
        if not findings or update < 0:
            return findings
        rates = self._rates.behind_bad_step(
            self._hook.probe.captures,
            self._named,
            update,
            is_weight=causes <= _SPOILED,
        )
        notes = findings[0].notes
        rates = [dataclasses.replace(rate, notes=notes) for rate in rates]
        return rates or findings

    def divergence_behind(self, findings, step, kept):
        """Puts the divergence in the place of the op that overflows by it.

        Args:
            findings: `Finding`s of a bad step.
            step: It as a `Step`.
            kept: What was kept of it, a `KeptStep`.

        Returns:
            A list of the one `Finding` of the divergence, the given ones where
            the weights are not what has grown.
        """
        captures = self._hook.probe.captures
        is_seen = kept.batch is not None or kept.trace is not None
        if not is_of_size(findings, is_seen) or not captures:
            return findings
        values, trace = kept.weights, kept.trace
        if trace is not None and trace.error is None and not values:
            values = values_in(trace, step.variables)
        lead = self._weights.lead(captures, values)
        history = self._trends.history()
        if lead is None or not has_diverged(step, lead, history, values):
            return findings
        if trace is None and step.data is not None:
            trace = step.evidence.recorded(kept.weights)
        hit = {path for finding in findings for path in finding.variables}
        found = divergence(step, lead, history, trace, hit)
        ops = {
            finding.op for finding in findings if finding.cause == "overflow"
        }
        ends = tuple(f"in the end `{op}` overflows" for op in ops)
        return [dataclasses.replace(found, notes=(*found.notes, *ends))]

    def misfits(self, zero, known):
        """Explains outputs, losses and labels that do not fit each other.

        Args:
            zero: Paths of variables whose gradient is exactly zero.
            known: Causes of what has been found already.

        Returns:
            A list of `Finding`s.
        """
        batch = self._hook.batch()
        if batch is None:
            return []
        step = self._step(batch)
        found = misfit_findings(step, zero, known)
        for finding in found:
            # A ReLU that can give no label ends with a gradient of zero.
            is_relu = finding.evidence.get("activation") == "relu"
            if finding.kind == "zero" or (finding.cause == LABELS and is_relu):
                self.note_explained(set(finding.variables))
        return found

    def note_explained(self, paths):
        """Takes note of variables whose gradient is explained already.

        Args:
            paths: Their paths, a set.
        """
        self._asked |= paths
        self._told |= paths

    def zero_so_far(self):
        """Explains gradients that were zero in every record, too few to tell.

        Returns:
            A list of `Finding`s, marked as suspected.
        """
        counts = {path: self._trends.num_zero(path) for path in self._named()}
        zero = [
            path
            for path, (num_zero, num_seen) in counts.items()
            if _FEWEST <= num_zero == num_seen
            and path not in self._asked | self._told | self._lost
            and not self._expected.covers(path)
        ]
        noise = None if zero or self._asked else self._trends.noise(_FEWEST)
        if noise is not None:
            zero, noise = list(counts), 10.0 * noise
        batch = self._hook.batch() if zero else None
        if batch is None:
            return []
        number = min(counts[path][1] for path in zero)
        note = f"seen in all {number} records of this training"
        return [
            dataclasses.replace(
                finding,
                certainty="suspected",
                from_start=True,
                notes=(*finding.notes, note),
            )
            for finding in explain_zeros(self._step(batch), zero, noise or 0.0)
        ]

    @property
    def patience(self):
        """How many records in a row it takes to tell of something."""
        return self._patience

    def num_zero(self, path):
        """Returns how long a gradient has been exactly zero.

        Args:
            path: Path of a variable.

        Returns:
            `(records in a row that were zero, records)`.
        """
        return self._trends.num_zero(path)

    def has_looked_at(self, path):
        """Returns whether a gradient that stays zero was looked into."""
        return path in self._asked

    def _underflowing(self):
        hook, underflow = self._hook, self._underflow
        found = underflow.falling(
            hook.probe.captures, hook.num_steps, self._step
        )
        if underflow.is_due(self._num_records):
            found += underflow.lost(self._step(hook.batch()))
        return found

    def _dropped(self):
        """What became trainable later is asked about once more."""
        model, applied = self._model, self._applied()
        known = set(map(id, applied))
        dropped = {id(v) for v in model.trainable_variables} - known
        if dropped == self._dropped_before:
            return []
        self._dropped_before = dropped
        return dropped_findings(
            self._step(self._hook.batch()),
            applied,
            self._frozen,
            self._hook.callbacks,
        )

    def _zero(self):
        zero = [
            p
            for p in self._trends.zero()
            if not (self._expected.covers(p) or p in self._lost)
        ]
        noise = None if self._lost else self._trends.noise()
        if noise is not None and not zero:
            zero, noise = list(self._step(None).paths), 10.0 * noise
        is_new = bool(set(zero) - self._asked)
        self.wants_next = False
        if not is_new or self._num_replays >= _MOST_REPLAYS:
            return []
        batch = self._hook.batch()
        if batch is None:
            return self._zero_from_first(zero)
        # Batches that alternate may look alike at every record, not in as
        # many steps in a row.
        is_short = self._num_next < self._patience - 1
        self.wants_next = is_short and self.may_ask
        if self.wants_next:
            return []
        self._num_replays += 1
        self._asked |= set(zero)
        found = explain_zeros(self._step(batch), zero, noise or 0.0)
        self._told |= {path for f in found for path in f.variables}
        return list(map(self._with_history, found))

    def _zero_from_first(self, zero):
        """What the first step of a loop has shown of zeros that last."""
        found = [
            finding
            for finding in self._first_zeros
            if set(finding.variables) <= set(zero) - self._asked
            and self._from_start(finding.variables)
        ]
        self.note_explained({p for f in found for p in f.variables})
        return list(map(self._with_history, found))

    def _with_history(self, finding):
        """Tells what is zero from the start from what became so, and when."""
        is_from_start = self._from_start(finding.variables)
        evidence, notes = finding.evidence, finding.notes
        steps = [
            self._trends.zero_since(path)
            for path in finding.variables
            if self._trends.num_zero(path)[0]
        ]
        if not is_from_start and steps and None not in steps:
            evidence = {**evidence, "since_step": max(steps)}
            notes += (
                f"the gradient is zero since step {max(steps)}, it was not in "
                "the record before",
            )
        return dataclasses.replace(
            finding, from_start=is_from_start, evidence=evidence, notes=notes
        )

    def _from_start(self, paths):
        """Whether some gradients have been zero since the first record."""
        counts = [self._trends.num_zero(path) for path in paths]
        return all(num_zero == num_seen for num_zero, num_seen in counts)

    def _fading(self):
        findings, declared = [], self._declared()
        for sign in self._trends.symptoms():
            new = set(sign.paths) - self._told
            layer = sign.paths[0].rpartition("/")[0]
            if not new or (sign.kind, layer) in self._told:
                continue
            # On the way from the loss the last of these layers comes first.
            begin = sign.paths[-1 if sign.kind == "vanishing" else 0]
            finding = Finding(
                kind=sign.kind,
                cause=sign.kind,
                layer=begin.rpartition("/")[0] or None,
                place=declared(begin),
                variables=sign.paths,
                evidence=sign.evidence,
            )
            if sign.kind == "exploding":
                finding = self._diverging(finding)
            self._told |= {(sign.kind, layer), *sign.paths, *finding.variables}
            findings.append(finding)
        return findings

    def _diverging(self, finding):
        """The divergence behind gradients that are too large, if it is one."""
        lead = self._weights.lead(self._hook.probe.captures)
        if lead is None or lead.growth < _GROWN:
            return finding
        step = self._step(self._hook.batch())
        recorded = None if step.data is None else step.evidence.recorded()
        history = self._trends.history()
        hit = set(finding.variables)
        found = divergence(step, lead, history, recorded, hit)
        evidence = {"records": finding.evidence["records"], **found.evidence}
        return dataclasses.replace(found, evidence=evidence)

    def _still(self):
        still = [p for p in self._trends.still() if p not in self._told]
        if not still:
            return []
        found = self._rates.too_small(
            self._hook.probe.captures,
            self._named,
            still,
            self._trends.largest(),
        )
        still = [path for path in still if path not in self._rates.hit]
        still = list(filter(self._is_unchanged, still))
        self._told |= {*still, *self._rates.hit}
        step = self._step(None)
        return found + still_findings(step, still, self._declared())

    def _is_unchanged(self, path):
        """Whether no element has moved: of a large weight few are measured."""
        variable = self._named()[path]
        if math.prod(variable.shape) <= _MEASURED_WHOLE:
            return True
        value = keras.ops.convert_to_numpy(variable)
        new = self._log.num_updates(), zlib.crc32(value.tobytes())
        number, known = self._values.setdefault(path, new)
        self._values[path] = new
        return new[0] > number and new[1] == known

    def _declared(self):
        """Returns what gives the `Place` that declares a variable's layer."""
        declarations = Declarations(self._model)

        def place(path):
            variable = self._named().get(path)
            layer = path.rpartition("/")[0] or None
            return declarations.place(layer, variable=variable) or Place()

        return place

    def _named(self):
        step = self._step(None)
        return dict(zip(step.paths, step.variables, strict=True))

    def _applied(self):
        captures = self._hook.probe.captures
        return [v for capture in captures for v in capture.variables]

    def _step(self, batch):
        return self._log.step_on(batch, self._hook.answers)
