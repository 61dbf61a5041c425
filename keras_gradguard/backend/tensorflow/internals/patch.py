"""Changes one instance for a while: never a class, never a module."""

_ABSENT = object()


def replaced(instance, name, value):
    """Gives one instance an attribute of its own while the block runs.

    Args:
        instance: Any object with a `__dict__`; a hook on setting attributes
            (Keras tracks them) is passed by.
        name: Name of the attribute.
        value: Its value for the time being.
    """
    return Replacement([(instance, name, value)])


class Replacement:
    """Gives instances attributes of their own while the block runs.

    It stands around each step, so it is no generator: those cost more.

    Args:
        patches: `(instance, name, value)`s, see `replaced`.
    """

    def __init__(self, patches):
        self._patches = [(vars(i), name, value) for i, name, value in patches]
        self._kept = []

    def __enter__(self):
        """Puts the values in place."""
        kept = []
        self._kept.append(kept)
        for names, name, value in self._patches:
            kept.append(names.get(name, _ABSENT))
            names[name] = value

    def __exit__(self, kind, error, traceback):
        """Puts back what was there, the last one first."""
        if self._kept:
            self._put_back(self._kept[-1])
            self._kept.pop()

    def put_back(self):
        """Puts back what a block has left that could not be ended."""
        while self._kept:
            self._put_back(self._kept[-1])
            self._kept.pop()

    def _put_back(self, values):
        # All of them are there, unless the block was left as it began.
        patches = zip(self._patches, values, strict=False)
        for (names, name, _), kept in reversed(list(patches)):
            if kept is _ABSENT:
                names.pop(name, None)
            else:
                names[name] = kept
