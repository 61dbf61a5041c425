"""Step 3 of 5: the records of a custom loop, from the graph to the logbook."""

import collections


class LoopRecords:
    """Hands on the records that wait in the graph, each of them once.

    Args:
        hook: The `LoopHook`.
        logbook: The `Logbook` to fill.
    """

    def __init__(self, hook, logbook):
        self._hook = hook
        self._logbook = logbook
        self._waiting = collections.deque()

    def written(self):
        """Writes what waits, and yields the figures of each record.

        What its caller leaves behind is written by the next call.
        """
        probe = self._hook.probe
        self._waiting.extend(probe.take())
        if self._waiting:
            self._logbook.see_optimizers(
                probe.named_captures(), self._hook.num_replicas
            )
        while self._waiting:
            step, measured = self._waiting.popleft()
            yield self._logbook.record(measured, step)

    def write(self):
        """Writes what waits, and looks at none of it."""
        for _ in self.written():
            pass
