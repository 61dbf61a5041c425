"""What a run holds, out of TensorBoard's data provider."""

import json

from tensorboard.data import provider

from keras_gradguard.report.layout import PLUGIN, VERSION

_ALL = 10**9


class ReadError(ValueError):
    """The records of a run cannot be shown; the text says why."""


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

    def runs(self):
        """Returns the tags of each run: `{run: {tag: series}}`."""
        found = self._provider.list_tensors(**self._known)
        return dict(sorted(found.items()))

    def texts(self, run, tags):
        """Returns the last JSON value of each of some tags.

        Args:
            run: Name of the run.
            tags: Names of tags; one that the run has not is left out.

        Raises:
            ReadError: If one is no JSON, or is of a later version.
        """
        found = {}
        for tag, points in self.points(run, tags).items():
            if points:
                found[tag] = _parsed(run, tag, points[-1].numpy)
        return found

    def points(self, run, tags):
        """Returns the points of some tags of a run.

        Args:
            run: Name of the run.
            tags: Names of tags.

        Returns:
            `{tag: [TensorDatum]}`.
        """
        if not tags:
            return {}
        wanted = provider.RunTagFilter(runs=[run], tags=list(tags))
        found = self._provider.read_tensors(
            **self._known, run_tag_filter=wanted, downsample=_ALL
        )
        return found.get(run, {})


def check_version(run, series):
    """Checks that this version can read a run.

    Args:
        run: Its name.
        series: Its tags, as `Store.runs` returns them.

    Raises:
        ReadError: If a later version has written it.
    """
    for tag, known in series.items():
        version = _version(known.plugin_content)
        if version is None:
            raise ReadError(f"run {run!r} holds a broken record: {tag!r}")
        _check(run, version)


def _version(content):
    try:
        return int(json.loads(content)["version"])
    except (KeyError, TypeError, ValueError):
        return None


def _check(run, version):
    if version > VERSION:
        raise ReadError(
            f"run {run!r} was written by a later version of keras_gradguard "
            f"(records of version {version}, this one reads {VERSION}): "
            "upgrade keras_gradguard where TensorBoard runs"
        )


def _parsed(run, tag, value):
    try:
        content = json.loads(value.item())
        version = int(content["version"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"run {run!r} holds a broken record: {tag!r} cannot be read "
            f"({type(error).__name__}: {error})"
        ) from error
    _check(run, version)
    return content
