"""Step 5 of 5: one event for each record, made once and filled each time."""

from tensorboard.compat.proto import event_pb2

from keras_gradguard.report import tab


class RecordEvent:
    """An event whose tags stay and whose numbers change.

    Args:
        tags: Tags of the scalars.
        schema: The `Schema` of the vectors.
        has_vectors: Whether it holds what our tab reads as well.
    """

    def __init__(self, tags, schema, has_vectors):
        self._schema = schema
        self._event = event_pb2.Event()
        add = self._event.summary.value.add
        self._scalars = [add(tag=tag) for tag in tags]
        self._num_scalars = len(self._scalars)
        self._has_vectors = has_vectors

    def filled(self, step, scalars, window):
        """Returns the event with new numbers; it is valid until the next.

        Args:
            step: The step.
            scalars: A number for each tag.
            window: The `Record` of the vectors, `None` if there are none.
        """
        self._event.step = step
        for value, number in zip(self._scalars, scalars, strict=True):
            value.simple_value = number
        if self._has_vectors:
            summary = self._event.summary
            del summary.value[self._num_scalars :]
            tab.add_record(summary, self._schema, window)
        return self._event
