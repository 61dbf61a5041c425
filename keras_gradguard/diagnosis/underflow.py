"""Gradients that float16 loses, and loss scales that fall."""

import collections

from keras_gradguard.model.layers import uses_float16
from keras_gradguard.records.finding import Finding

# The window, in steps, of `Thresholds.scale_drops`.
_WINDOW = 500
# How often a training that loses nothing is asked again: at these multiples
# of the patience, as each asking costs four steps.
_ASKED_AT = (1, 10, 100)


class Underflow:
    """Follows what float16 does to the gradients of one training.

    Args:
        hook: The `FitHook` of the model.
        thresholds: The `Thresholds`.
    """

    def __init__(self, hook, thresholds):
        self._hook = hook
        self._limits = thresholds
        self._past = collections.defaultdict(collections.deque)
        self._told = set()

    def of_record(self, number, step_of):
        """Says what a record and those before it show.

        Args:
            number: How many records there are by now.
            step_of: Makes the `Step` of a batch.

        Returns:
            A list of `Finding`s that are new.
        """
        found = [
            finding
            for capture in self._hook.probe.captures
            if capture.treatment.is_scaled
            for finding in self._falling(capture, step_of)
        ]
        records = [self._limits.patience * times for times in _ASKED_AT]
        is_due = number in records and "lost" not in self._told
        if is_due and self._limits.lost_share is not None:
            found += self._lost(step_of(self._hook.batch()))
        return found

    def _falling(self, capture, step_of):
        """A loss scale that is halved again and again."""
        known, limit = capture.treatment.read(), self._limits.scale_drops
        key = id(capture)
        if limit is None or key in self._told:
            return []
        past = self._past[key]
        past.append((self._hook.num_steps, known["num_late"]))
        while past[-1][0] - past[0][0] > _WINDOW:
            past.popleft()
        steps, drops = (b - a for a, b in zip(past[0], past[-1], strict=True))
        if drops <= limit:
            return []
        self._told.add(key)
        step = step_of(None)
        named = dict(zip(map(id, step.variables), step.paths, strict=True))
        return [
            Finding(
                kind="underflow",
                cause="falling_scale",
                variables=tuple(
                    named[id(v)] for v in capture.variables if id(v) in named
                ),
                evidence={
                    "drops": drops,
                    "steps": steps,
                    "loss_scale": float(capture.optimizer.scale_loss(1.0)),
                },
            )
        ]

    def _lost(self, step):
        """Gradient elements that a larger loss scale brings back."""
        if step.data is None or not uses_float16(step.model):
            return []
        counts = step.evidence.lost_elements(step.variables, step.paths)
        shares = {
            path: lost / (lost + kept)
            for path, (lost, kept) in counts.items()
            if lost
        }
        hit = [p for p, s in shares.items() if s > self._limits.lost_share]
        if not hit:
            return []
        self._told.add("lost")
        worst = max(hit, key=shares.get)
        return [
            Finding(
                kind="underflow",
                cause="float16",
                variables=tuple(hit),
                evidence={
                    "lost_share": shares[worst],
                    "worst": worst,
                    "loss_scale": float(step.model.optimizer.scale_loss(1.0)),
                },
            )
        ]
