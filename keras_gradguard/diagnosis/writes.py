"""Step 4: what a look writes to variables that nobody knows of is undone.

A step may hold its optimizer, or a counter, in a global, in a closure or in
an object of its own, where no search of the model finds it.
"""

import contextlib
import sys

import tensorflow as tf

from keras_gradguard.diagnosis import eager_internals, variable_internals

# A code object is slow to hash; these live as long as TensorFlow.
_WRITERS = frozenset(map(id, variable_internals.WRITERS))


@contextlib.contextmanager
def writes_undone():
    """Puts back each variable that this thread writes to in the block.

    Those that are made in the block keep what they get. A profiler of the
    user's is not disturbed: then nothing is watched.
    """
    before = sys.getprofile()
    if not (before is None or is_watch(before)):
        yield
        return
    watch = _Watch(before)
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)
        with tf.init_scope():
            for handle, value in watch.kept.values():
                if value is not None:
                    variable_internals.put(handle, value)


def is_watch(profile):
    """Returns whether a profile function is that of `writes_undone`."""
    return isinstance(profile, _Watch)


class _Watch:
    """A profile function that keeps a value before its first write."""

    def __init__(self, before):
        self.before, self.kept = before, {}

    def __call__(self, frame, event, argument):
        if event == "call" and id(frame.f_code) in _WRITERS:
            for value in list(frame.f_locals.values()):
                self._keep(value)
        if self.before is not None:
            self.before(frame, event, argument)

    def _keep(self, value):
        if not variable_internals.is_handle(value) or id(value) in self.kept:
            return
        with tf.init_scope(), eager_internals.no_op_seen():
            # There is none where the block itself has made the variable.
            content = variable_internals.content_of(value)
        self.kept[id(value)] = value, content
