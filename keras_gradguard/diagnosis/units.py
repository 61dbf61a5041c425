"""Step 4: what of a prediction can move alone while a condition is sought."""

import numpy as np


class Elements:
    """Each number of a prediction moves alone.

    Args:
        shape: Shape of the part that moves.
    """

    def __init__(self, shape):
        self.shape = shape

    def changed(self, differs):
        """Returns which units have a condition that differs."""
        return differs

    def truth(self, bools, differs):
        """Returns whether the condition of each unit has become true."""
        del differs
        return bools

    def spread(self, share, part):
        """Returns a value per unit in a shape that fits a part."""
        return share if part.shape == self.shape else np.zeros(())

    def directions(self, ways):
        """Returns ways as long as 1 in each unit's largest number."""
        return [np.sign(way) for way in ways]


class Samples:
    """Each sample moves alone, all of its numbers at once.

    Args:
        number: Number of samples.
    """

    def __init__(self, number):
        self.shape = (number,)

    def changed(self, differs):
        """See `Elements`."""
        return differs.reshape(self.shape[0], -1).any(axis=1)

    def truth(self, bools, differs):
        """See `Elements`."""
        differs = differs.reshape(self.shape[0], -1)
        bools = bools.reshape(differs.shape)
        return 2 * (bools & differs).sum(axis=1) >= differs.sum(axis=1)

    def spread(self, share, part):
        """See `Elements`."""
        return share.reshape(self.shape + (1,) * (part.ndim - 1))

    def directions(self, ways):
        """See `Elements`."""
        flat = [np.abs(way).reshape(self.shape[0], -1) for way in ways]
        size = np.concatenate(flat, axis=1).max(axis=1)
        size = np.where(size == 0, 1.0, size)
        return [way / self.spread(size, way) for way in ways]


class Whole:
    """All numbers move at once."""

    shape = ()

    def changed(self, differs):
        """See `Elements`."""
        return np.asarray(differs.any())

    def truth(self, bools, differs):
        """See `Elements`."""
        return np.asarray(2 * (bools & differs).sum() >= differs.sum())

    def spread(self, share, part):
        """See `Elements`."""
        del part
        return share

    def directions(self, ways):
        """See `Elements`."""
        size = max(np.abs(way).max(initial=0) for way in ways) or 1.0
        return [way / size for way in ways]
