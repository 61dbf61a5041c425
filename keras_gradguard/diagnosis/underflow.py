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
        thresholds: The `Thresholds`.
    """

    def __init__(self, thresholds):
        self._limits = thresholds
        self._past = collections.defaultdict(collections.deque)
        self._told = set()

    def falling(self, captures, num_steps, step_of):
        """Finds loss scales that are halved again and again.

        Args:
            captures: What is measured of each update: its `optimizer`,
                `variables` and `treatment`.
            num_steps: How many steps there are by now.
            step_of: Makes the `Step` of a batch.

        Returns:
            A list of `Finding`s that are new.
        """
        return [
            finding
            for capture in captures
            if capture.treatment.is_scaled
            for finding in self._falling(capture, num_steps, step_of)
        ]

    def is_due(self, num_records):
        """Returns whether `lost` is to be asked at this record."""
        due = [self._limits.patience * times for times in _ASKED_AT]
        has_limit = self._limits.lost_share is not None
        return num_records in due and "lost" not in self._told and has_limit

    def _falling(self, capture, num_steps, step_of):
        known, limit = capture.treatment.read(), self._limits.scale_drops
        key = id(capture)
        if limit is None or key in self._told:
            return []
        past = self._past[key]
        past.append((num_steps, known["num_late"]))
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

    def lost(self, step):
        """Finds gradient elements that a larger loss scale brings back.

        Args:
            step: The `Step`; nothing is found without its `data`.

        Returns:
            A list of `Finding`s.
        """
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
