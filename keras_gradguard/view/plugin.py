"""The TensorBoard plugin and its routes."""

import base64
import functools
import pathlib

import numpy as np
import werkzeug.wrappers
from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from tensorboard.util import tb_logging

from keras_gradguard.report.layout import PLUGIN, RECORD, VERSION
from keras_gradguard.view.decode import Decoder, ReadError, Store
from keras_gradguard.view.details import Details
from keras_gradguard.view.timeline import timeline_of

FOLDER = pathlib.Path(__file__).parent / "static"
INDEX = "index.js"
_TYPES = {".js": "text/javascript", ".css": "text/css"}


def asset_names():
    """Returns the names of all files that may be served, `INDEX` always."""
    found = FOLDER.iterdir() if FOLDER.is_dir() else ()
    known = {path.name for path in found if path.suffix in _TYPES}
    return sorted(known | {INDEX})


def read_asset(name):
    """Returns the content of a file and its media type.

    Args:
        name: One of `names()`.

    Raises:
        LookupError: If the file is missing.
    """
    path = FOLDER / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LookupError(
            f"the file {name} of the Gradients tab is missing; reinstall "
            "keras_gradguard"
        ) from error
    return content, _TYPES[path.suffix]


MOST_COLUMNS = 4000
_logger = tb_logging.get_logger()


class GradGuardPlugin(base_plugin.TBPlugin):
    """Serves the Gradients tab.

    Args:
        context: A `TBContext`.
    """

    plugin_name = PLUGIN

    def __init__(self, context):
        self._provider = context.data_provider
        self._listed = {}  # by run: what it was made of, and what was told

    def get_plugin_apps(self):
        """Returns the WSGI application of each route."""
        routes = {
            "/runs": _answered(self._runs),
            "/norms": _answered(self._norms),
            "/details": _answered(self._details),
        }
        for name in asset_names():
            routes[f"/{name}"] = functools.partial(_serve_asset, name)
        return routes

    def is_active(self):
        """Returns False: TensorBoard itself looks for data of our name."""
        return False

    def frontend_metadata(self):
        """Returns what TensorBoard is to load, and the name of the tab."""
        return base_plugin.FrontendMetadata(
            es_module_path=f"/{INDEX}", tab_name="Gradients"
        )

    def _store(self, request):
        context = plugin_util.context(request.environ)
        experiment = plugin_util.experiment_id(request.environ)
        return Store(self._provider, context, experiment)

    def _runs(self, request):
        """All runs that have something to show."""
        store = self._store(request)
        found = store.runs()
        state = {run: _state(request, found[run]) for run in found}
        listed = {
            run: known
            for run, known in self._listed.items()
            if run in found and known[0] == state[run]
        }
        new = [run for run in found if run not in listed]
        store.read_last(new)
        for run in new:
            listed[run] = state[run], _told(store, run, found[run])
        self._listed = listed
        runs = [listed[run][1] for run in found]
        return {"version": VERSION, "runs": runs}

    def _norms(self, request):
        """The table of one run: variables x steps."""
        most = _number(request, "columns", 1, MOST_COLUMNS)
        steps = [_number(request, name) for name in ("first", "last")]
        store, run, series = self._one_run(request)
        whole = timeline_of(store, run, series)
        shown = whole.between(*steps).merged(most or MOST_COLUMNS)
        return {
            "run": run,
            "variables": list(shown.variables),
            "columns": shown.columns.tolist(),
            "norms": _packed(shown.norms.T),
            "updates": _packed(shown.updates.T),
            "global_norm": _packed(shown.global_norm),
            "first_step": _edge(whole.columns, 0, 0),
            "last_step": _edge(whole.columns, -1, 1),
            "num_records": int(whole.columns[:, 2].sum()),
        }

    def _details(self, request):
        """Verdict, diagnoses, losses and incidents of one run."""
        store, run, series = self._one_run(request)
        told = Details(store, run, series)
        return {
            "run": run,
            "verdict": told.verdict,
            "diagnoses": told.cards,
            "losses": told.losses,
            "incidents": told.incidents,
        }

    def _one_run(self, request):
        run = request.args.get("run")
        if run is None:
            raise ValueError("the request does not name a run: add ?run=NAME")
        store = self._store(request)
        runs = store.runs()
        if run not in runs:
            known = ", ".join(map(repr, runs)) or "none"
            raise ValueError(
                f"there is no run {run!r} with gradients; there is: {known}"
            )
        Decoder(run).check(runs[run])
        return store, run, runs[run]


def _state(request, series):
    """What changes with each record of a run that is written."""
    tags = sorted(
        (tag, known.max_step, known.max_wall_time, known.plugin_content)
        for tag, known in series.items()
    )
    return plugin_util.experiment_id(request.environ), tags


def _told(store, run, series):
    """What the list tells of a run: which routes can be asked, or why not."""
    known = {"run": run, "error": None, "readable": []}
    for route, look in (("norms", _last_record), ("details", _counts)):
        try:
            Decoder(run).check(series)
            known |= look(store, run, series)
            known["readable"].append(route)
        except ReadError as error:
            known["error"] = known["error"] or str(error)
        except Exception as error:
            # One bad run must not take the list from the page.
            known["error"] = known["error"] or _fault(error)
    return known


def _last_record(store, run, series):
    """All of them would take too long; the page tells of those before."""
    timeline_of(store, run, series, most=1)
    return {}


def _counts(store, run, series):
    told = Details(store, run, series)
    records = [known for tag, known in series.items() if tag.startswith(RECORD)]
    return {
        "last_step": max((known.max_step for known in records), default=None),
        "verdict": told.verdict and told.verdict["title"],
        "num_diagnoses": len(told.cards),
        "num_losses": len(told.losses["terms"]) if told.losses else 0,
        "num_incidents": len(told.incidents),
    }


def _number(request, name, least=0, most=2**62):
    text = request.args.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"`{name}` is not an integer: {text!r}")
    if not least <= int(text) <= most:
        raise ValueError(f"`{name}` is not between {least} and {most}: {text}")
    return int(text)


def _packed(numbers):
    content = np.ascontiguousarray(numbers, "<f4").tobytes()
    return base64.b64encode(content).decode()


def _edge(columns, row, place):
    return int(columns[row, place]) if len(columns) else None


def _answered(route):
    """Makes a WSGI application of a function of a request."""

    @werkzeug.wrappers.Request.application
    def application(request):
        if request.method not in ("GET", "HEAD"):
            return _sentence(request, f"{request.method} is not supported", 405)
        try:
            content = route(request)
        except ValueError as error:
            return _sentence(request, str(error), 400)
        except Exception as error:
            return _sentence(request, _fault(error), 500)
        # To compress what goes to the same machine takes longer than to send.
        return http_util.Respond(
            request, content, "application/json", content_encoding="identity"
        )

    return application


def _fault(error):
    """Logs a fault of ours; returns the sentence that tells of it."""
    _logger.error("keras_gradguard failed (GG900)", exc_info=error)
    return (
        "keras_gradguard itself failed to read the records (GG900): "
        f"{type(error).__name__}: {error}"
    )


def _serve_asset(name, environ, start_response):
    request = werkzeug.wrappers.Request(environ)
    try:
        response = http_util.Respond(request, *read_asset(name))
    except LookupError as error:
        response = _sentence(request, str(error), 404)
    except Exception as error:
        response = _sentence(request, _fault(error), 500)
    return response(environ, start_response)


def _sentence(request, text, code):
    return http_util.Respond(request, text, "text/plain", code=code)
