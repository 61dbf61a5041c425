"""Changes one instance for a while: never a class, never a module."""

import contextlib


@contextlib.contextmanager
def replaced(instance, name, value):
    """Gives one instance an attribute of its own while the block runs.

    Args:
        instance: Any object with a `__dict__`; a hook on setting attributes
            (Keras tracks them) is passed by.
        name: Name of the attribute.
        value: Its value for the time being.
    """
    names = vars(instance)
    kept = {name: names[name]} if name in names else {}
    names[name] = value
    try:
        yield
    finally:
        names.pop(name, None)
        names.update(kept)
