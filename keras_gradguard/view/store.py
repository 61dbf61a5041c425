"""What a run holds, out of TensorBoard's data provider."""

from tensorboard.data import provider

from keras_gradguard.report.layout import PLUGIN
from keras_gradguard.view.decode import broken

_ALL = 10**9


class Store:
    """Reads the runs of one experiment.

    Args:
        data_provider: The `DataProvider` of TensorBoard.
        context: The `RequestContext`.
        experiment: The experiment, as TensorBoard names it.
    """

    def __init__(self, data_provider, context, experiment):
        self._provider = data_provider
        self._known = {
            "ctx": context,
            "experiment_id": experiment,
            "plugin_name": PLUGIN,
        }
        self._last = {}

    def runs(self):
        """Returns the tags of each run: `{run: {tag: series}}`."""
        found = self._provider.list_tensors(**self._known)
        return dict(sorted(found.items()))

    def read_last(self, runs):
        """Reads the last points of all tags of some runs at once.

        A call for each takes longer: the fast server needs 40 ms to answer
        one. Where it fails, each run is read when it is asked for, so that
        only those fail that cannot be read.

        Args:
            runs: Names of the runs.
        """
        try:
            self._last = self._read(runs, None, 1) if runs else {}
        except Exception:
            self._last = {}

    def last(self, run, tags):
        """Returns the last point of each of some tags.

        Args:
            run: Name of the run.
            tags: Names of tags; one that the run has not is left out.

        Returns:
            `{tag: TensorDatum}`.

        Raises:
            ReadError: If TensorBoard cannot read one.
        """
        found = self.points(run, tags, 1)
        return {tag: points[-1] for tag, points in found.items() if points}

    def points(self, run, tags, most=_ALL):
        """Returns the points of some tags of a run.

        Args:
            run: Name of the run.
            tags: Names of tags.
            most: How many of each tag, the last one among them.

        Returns:
            `{tag: [TensorDatum]}`.

        Raises:
            ReadError: If TensorBoard cannot read one.
        """
        if not tags:
            return {}
        if most == 1 and run in self._last:
            found = self._last[run]
            return {tag: found[tag] for tag in tags if tag in found}
        try:
            return self._read([run], list(tags), most).get(run, {})
        except Exception as error:
            # It decodes tensors on its own, and documents no exception.
            raise broken(run, "TensorBoard cannot read it", error) from error

    def _read(self, runs, tags, most):
        return self._provider.read_tensors(
            **self._known,
            run_tag_filter=provider.RunTagFilter(runs=runs, tags=tags),
            downsample=most,
        )
