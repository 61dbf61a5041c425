"""TensorBoard's own WSGI application over event files, without a server."""

import base64
import json

import numpy as np
from tensorboard import default, program
from tensorboard.backend import application
from tensorboard.backend.event_processing.data_ingester import (
    LocalDataIngester,
)
from werkzeug.test import Client

ROUTE = "/data/plugin/keras_gradguard"


class Served:
    """All that TensorBoard serves of a log folder, read once.

    Args:
        log_dir: The folder.
        arguments: Further arguments of the command `tensorboard`.
    """

    def __init__(self, log_dir, *arguments):
        # Our plugin is among them by its entry point.
        board = program.TensorBoard(plugins=default.get_plugins())
        board.configure(
            (
                "tensorboard",
                f"--logdir={log_dir}",
                "--load_fast=false",
                *arguments,
            )
        )
        ingester = LocalDataIngester(board.flags)
        multiplexer = ingester.deprecated_multiplexer
        multiplexer.AddRunsFromDirectory(str(log_dir)).Reload()
        self._client = Client(
            application.TensorBoardWSGIApp(
                board.flags,
                board.plugin_loaders,
                ingester.data_provider,
                deprecated_multiplexer=multiplexer,
            )
        )
        self._prefix = board.flags.path_prefix or ""

    def get(self, path, **query):
        """Returns the response to a path below TensorBoard's root."""
        return self._client.get(self._prefix + path, query_string=query)

    def json(self, route, **query):
        """Returns the JSON of one of our routes."""
        response = self.get(f"{ROUTE}/{route}", **query)
        assert response.status_code == 200, response.get_data(as_text=True)
        return json.loads(response.get_data())

    def refused(self, route, code=400, **query):
        """Returns the sentence of a response that is an error."""
        response = self.get(f"{ROUTE}/{route}", **query)
        assert response.status_code == code
        assert response.content_type.startswith("text/plain")
        return response.get_data(as_text=True)

    def table(self, run, columns=4000, **query):
        """Returns what `/norms` tells, its numbers as arrays."""
        known = self.json("norms", run=run, columns=columns, **query)
        shape = (len(known["variables"]), len(known["columns"]))
        for name in ("norms", "updates"):
            known[name] = array(known[name]).reshape(shape)
        known["global_norm"] = array(known["global_norm"])
        return known


def array(text):
    """Returns packed numbers as an array."""
    return np.frombuffer(base64.b64decode(text), "<f4")
