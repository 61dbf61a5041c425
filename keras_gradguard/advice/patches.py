"""The changes of a finding's line that were tried and help."""

import contextlib
import difflib
import functools
import itertools
import time

from keras_gradguard.advice.layers import layer_rewrites
from keras_gradguard.advice.rewrites import rewrites
from keras_gradguard.advice.site import Site, edited
from keras_gradguard.advice.trial import LayerTrial, StepTrial
from keras_gradguard.records.report import Help, Patch, digest_of

# Each trial traces and runs a step.
MOST_TRIALS = 6
MOST_SECONDS = 10.0
# Lines between two changes that are shown as one.
_MOST_BETWEEN = 5


class Patches:
    """Finds the patches for the findings of one training, each once.

    Args:
        trial: Makes what tries a change for a `Finding`; by default the
            `StepTrial` of `step`.

    Attributes:
        step: The `Step` that was looked at last, `None` before.
        weights: `(variable, value)` pairs that it ran with, if they are not
            those of now.
        isolated: Returns a context in which the step may be replayed.
        barrier: A context that keeps a fault in a rewrite or trial from the
            finding, which is reported without a patch then.
    """

    def __init__(self, trial=None):
        self._trial = trial or self._step_trial
        self.step, self.weights = None, ()
        self.isolated = contextlib.nullcontext
        self.barrier = contextlib.nullcontext()
        self._known = {}

    @classmethod
    def of_step(cls, step, isolated, weights=()):
        """Returns those of one step, see the attributes."""
        patches = cls()
        patches.step, patches.isolated = step, isolated
        patches.weights = weights
        return patches

    def forget(self):
        """Drops the step: its traces, batch and weights use memory."""
        self.step, self.weights = None, ()

    def about(self, finding, code):
        """Returns the `Help` with a patch that was checked, or `None`.

        Args:
            finding: A `Finding`.
            code: Code of the rule that explains it.
        """
        place = finding.place
        trial = None if place.line is None else self._trial(finding)
        if trial is None:
            return None
        key = (code, place.file, place.line)
        if key not in self._known:
            self._known[key] = None
            with self.barrier, self.isolated():
                self._known[key] = _first_checked(
                    itertools.chain(
                        _of_lines(finding, code, trial),
                        self._of_layers(finding, code),
                    )
                )
        return self._known[key]

    def _of_layers(self, finding, code):
        """Rewrites of what has made the model; a loss alone has none."""
        if self.step is not None:
            trial = LayerTrial(self.step, finding, self.weights)
            for site, rewrite in layer_rewrites(finding, code, self.step):
                yield site, rewrite, functools.partial(trial.check, rewrite)

    def _step_trial(self, finding):
        """A step of a loop that was only seen cannot be run once more."""
        step = self.step
        can_run = step is not None and step.data is not None
        if not can_run or step.evidence.seen is not None:
            return None
        if step.evidence.is_shared:
            return None
        return StepTrial(step, finding, self.weights)


def checked_help(finding, code, trial):
    """Returns the first change of the user's line that helps, or `None`.

    Args:
        finding: A `Finding`.
        code: Code of the rule that explains it.
        trial: Has `check(text, lines, keeps_value)`, see `StepTrial`.

    Returns:
        A `Help` with the user's own lines before and after, and a `Patch`.
    """
    if finding.place.line is None:
        return None
    return _first_checked(_of_lines(finding, code, trial))


def _of_lines(finding, code, trial):
    """Yields `(site, rewrite, check)` of the code that a step runs."""
    site = Site(finding)
    for rewrite in rewrites(site, code):
        text = edited(site.text, rewrite.edits)
        # What is added behind the last line of a function is a part of it.
        lines = [
            line if old else max(1, line - 1)
            for line, old, _ in changes_between(site.text, text)
        ]
        check = functools.partial(trial.check, text, lines, rewrite.keeps_value)
        yield site, rewrite, check


def _first_checked(proposals):
    """The `Help` of the first rewrite that a check has words for."""
    begin = time.monotonic()
    for number, (site, rewrite, check) in enumerate(proposals):
        if number >= MOST_TRIALS or time.monotonic() - begin > MOST_SECONDS:
            return None
        text = edited(site.text, rewrite.edits)
        found = None if text == site.text else check()
        if found is not None:
            return _help(site, rewrite, text, found)
    return None


def _help(site, rewrite, text, found):
    effect = "" if rewrite.effect is None else f"; {rewrite.effect}"
    patch = Patch(
        site.file, digest_of(site.text), changes_between(site.text, text)
    )
    shown = _with_context(patch.changes, site.text.split("\n"))
    before = "\n".join(line for _, old, _ in shown for line in old)
    after = "\n".join(line for _, _, new in shown for line in new)
    return Help(
        text=rewrite.text,
        before=before,
        after=after,
        checked=f"{found}{effect}",
        patch=patch,
    )


def _with_context(changes, lines):
    """Changes as they are shown: what only comes or goes has a place.

    Args:
        changes: See `changes_between`.
        lines: The lines of the old text.
    """
    if all(old and new for _, old, new in changes):
        return changes
    shown = []
    for line, old, new in changes:
        begin = line if old else max(1, line - 1)
        held = tuple(lines[begin - 1 : line - 1])
        if shown:
            first, before, after = shown[-1]
            end = first + len(before)
            if line - end <= _MOST_BETWEEN:
                held = tuple(lines[end - 1 : line - 1])
                shown[-1] = first, before + held + old, after + held + new
                continue
        shown.append((begin, held + old, held + new))
    return tuple(shown)


def changes_between(old, new):
    """Returns what differs between two texts, by lines.

    Args:
        old: The text as it is.
        new: The text with a change.

    Returns:
        A tuple of `(line, old lines, new lines)`: the number of the first
        line that goes, from 1, and tuples of lines without their ends.
    """
    before, after = old.split("\n"), new.split("\n")
    # What stands in front of the change and behind it is no part of it, even
    # where an empty line of the new text is like one of them.
    head = _num_same(before, after)
    tail = _num_same(before[head:][::-1], after[head:][::-1])
    before = before[head : len(before) - tail]
    after = after[head : len(after) - tail]
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return tuple(
        (head + begin + 1, tuple(before[begin:end]), tuple(after[first:last]))
        for kind, begin, end, first, last in matcher.get_opcodes()
        if kind != "equal"
    )


def _num_same(one, other):
    """How many items are the same from the first one on."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = (number for number, (a, b) in pairs if a != b)
    return next(differ, min(len(one), len(other)))
