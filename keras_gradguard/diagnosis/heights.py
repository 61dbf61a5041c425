"""Step 4: how high a loss jumps at a flip, if it does.

The loss is run a little to each side, at three distances. A jump stays as it
is, everything else shrinks.
"""

import dataclasses

import numpy as np

from keras_gradguard.diagnosis.lossrun import LossFailed

# A formula that switches to its own series differs by less, and nobody
# minds: a jump counts from this share of the loss's own size on.
_LEAST_JUMP = 1e-4
# How much a jump may differ from one distance to the next, which is a tenth.
_SPREAD = 0.2
# How much of a jump must be due to the condition that is accused.
_LEAST_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Jump:
    """A measured jump.

    Args:
        height: The largest change of one value of the loss.
        switch: The `Switch` it happens at.
        runs: The `Run`s nearest to it, where the condition is true first.
        signs: The signs for `Switch.side` of the first of them.
    """

    height: float
    switch: object
    runs: tuple
    signs: np.ndarray


def measured(ways, switch):
    """Returns the `Jump` at a flip, `None` if it cannot be measured.

    Its height is 0.0 where the loss is continuous.

    Args:
        ways: The `Ways` that led there.
        switch: The `Switch`.
    """
    found = None
    for signs in _patterns(switch):
        steps = []
        for width in switch.widths:
            runs = [ways.run(switch.side(width, s)) for s in (signs, -signs)]
            if None in runs or runs[0].values.shape != runs[1].values.shape:
                break
            steps.append(runs[0].values - runs[1].values)
        if len({step.shape for step in steps}) > 1 or len(steps) < 3:
            continue
        height = _constant_part(ways.first, steps, runs)
        if height is None:
            continue
        found = Jump(height, switch, tuple(runs), signs)
        if height:
            break
    return found


def depends(subject, jump, key):
    """Whether the loss jumps because of this very condition.

    Others may flip at the same prediction: this one alone is flipped.

    Args:
        subject: The `LossRun`.
        jump: The `Jump`.
        key: Key of the condition in `Run.bools`.
    """
    prediction = jump.switch.side(jump.switch.widths[-1], jump.signs)
    other = jump.runs[1].bools.get(key)
    try:
        flipped = subject.run(prediction, forced={key: other}).values
    except LossFailed:
        return False
    if other is None or flipped.shape != jump.runs[0].values.shape:
        return False
    change = np.abs(flipped - jump.runs[0].values)
    return bool((change > _LEAST_SHARE * jump.height).any())


def _patterns(switch):
    """Which side each unit goes to: first all to where it is true."""
    toward = switch.toward_true
    yield toward
    if toward.ndim:
        yield np.abs(toward)
        random = np.random.default_rng(0)
        yield toward * random.choice([-1.0, 1.0], toward.shape)


def _constant_part(first, steps, runs):
    """What is left of a difference as the distance shrinks, 0.0 if nothing."""
    _, wide, near = steps
    finite = np.isfinite(wide) & np.isfinite(near)
    if not finite.any():
        return None
    wide, near = wide[finite], near[finite]
    sizes = [first.values, *(run.values[finite] for run in runs)]
    size = max(np.abs(s[np.isfinite(s)]).mean() for s in sizes if s.size)
    # The last tenth of the way tells what a slope still adds.
    jump = np.abs(10 * near - wide) / 9
    stays = np.abs(wide - near) <= _SPREAD * np.abs(near)
    stays &= np.abs(near) > _LEAST_JUMP * size
    return float(jump[stays].max()) if stays.any() else 0.0
