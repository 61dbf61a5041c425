"""Trainings that reach much of the package, bare and guarded.

Imported by `tests.faults.passes` only, once the faults are installed.
"""

import contextlib
import gc
import io
import json
import os
import pathlib
import random
import sys
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

_generator = np.random.default_rng(7)
X = _generator.normal(size=(8, 4)).astype("float32")
Y = np.eye(3, dtype="float32")[_generator.integers(0, 3, 8)]


class Hard(keras.layers.Layer):
    """Cuts the gradient."""

    def call(self, x):
        """Makes truth values of numbers."""
        return tf.cast(x > 0.0, x.dtype)


class Late(keras.layers.Layer):
    """Gives NaN once it was called some times in training.

    Args:
        num_healthy: How many calls are healthy.
    """

    def __init__(self, num_healthy=2):
        super().__init__()
        self.num_healthy = float(num_healthy)

    def build(self, shape):
        """Makes the counter."""
        self.count = self.add_weight(initializer="zeros", trainable=False)

    def call(self, x, training=False):
        """Takes the logarithm of what is negative."""
        if training:
            self.count.assign_add(1.0)
        is_bad = self.count > self.num_healthy
        return tf.where(is_bad, tf.math.log(-tf.abs(x)), x)


class OwnStep(keras.Model):
    """A step of the user's own, with an update in a function."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        """Passes on."""
        return self.inner(x)

    def train_step(self, data):
        """Updates."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x, training=True)))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def argmax_loss(y_true, y_pred):
    """A loss whose gradient is cut."""
    hit = tf.argmax(y_pred, -1) == tf.argmax(y_true, -1)
    return 1.0 - tf.cast(hit, tf.float32)


def partly_cut(y_true, y_pred):
    """A loss with an addend that trains nothing."""
    return tf.reduce_mean(tf.square(y_true - y_pred), -1) + argmax_loss(
        y_true, y_pred
    )


def numpy_loss(y_true, y_pred):
    """A loss that leaves TensorFlow, where a graph cannot."""
    return tf.constant(np.mean((y_pred.numpy() - y_true.numpy()) ** 2))


def network(middle=None, loss="mse", eager=False, is_own=False, last=None):
    """A compiled model of two layers with what a step may change."""
    layers = [
        keras.layers.Dense(4, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        *([] if middle is None else [middle()]),
        keras.layers.Dense(3, **(last or {})),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model = OwnStep(model) if is_own else model
    model.compile("adam", loss, run_eagerly=eager)
    return model


class Outcome:
    """What a training has left: `values`, `error`, `report`, `drawn`."""

    def __init__(self, values, error, report):
        self.values, self.error, self.report = values, error, report
        self.drawn = [random.random(), float(np.random.normal())]
        self.drawn.append(float(tf.random.normal([])))
        self.drawn.append(float(keras.random.normal([])))


def values_of(model, *optimizers):
    """All variables of a model and its optimizers, as arrays."""
    found = list(model.variables)
    for optimizer in optimizers or (getattr(model, "optimizer", None),):
        found += [] if optimizer is None else optimizer.variables
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in found]


def let_go(error):
    """Returns an exception without the frames that it came through.

    They hold the `fit`, which is over for the guard when they are gone.
    """
    error.__context__ = error.__cause__ = None
    error = error.with_traceback(None)
    gc.collect()
    return error


def report_steps(watching):
    """How many records a callback or a `watch` has taken in."""
    log = watching._log
    return 0 if log is None else log.num_records


def steps_in(folder):
    """The steps of the records that can be read back from a log folder."""
    from tensorboard.backend.event_processing.event_file_loader import (
        EventFileLoader,
    )

    return {
        event.step
        for path in pathlib.Path(folder).rglob("events.*")
        for event in EventFileLoader(str(path)).Load()
        if any("global_norm" in v.tag for v in event.summary.value)
    }


ENDS = Exception, KeyboardInterrupt


class Fit:
    """A `fit` with the callback, or with the loss alone.

    Args:
        model: Arguments of `network`.
        callback: Arguments of the callback; `None` for none.
        is_logged: Whether there is a `log_dir`.
        guard_loss: Whether the loss is in a `GradGuardLoss`.
        may_differ: Whether the guard changes what the training does.
    """

    is_training = True
    lost = 0

    def __init__(
        self,
        model=None,
        callback=None,
        is_logged=False,
        guard_loss=None,
        may_differ=False,
        epochs=2,
        replicas=False,
    ):
        self.model, self.callback = model or {}, callback
        self.is_logged, self.guard_loss = is_logged, guard_loss
        self.may_differ, self.epochs = may_differ, epochs
        self.replicas = replicas

    def run(self, injector, is_guarded):
        """Trains; returns an `Outcome`."""
        from keras_gradguard import GradGuardLoss, GradHealthCallback

        arguments = dict(self.model)
        scope = contextlib.nullcontext()
        if self.replicas:
            scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
        with scope, contextlib.ExitStack() as stack:
            callbacks, report = [], None
            if is_guarded and self.guard_loss is not None:
                loss = arguments.get("loss", "mse")
                arguments["loss"] = GradGuardLoss(loss, **self.guard_loss)
            if is_guarded and self.callback is not None:
                named = {"every": 1, **self.callback}
                if self.is_logged:
                    folder = tempfile.TemporaryDirectory(
                        ignore_cleanup_errors=True
                    )
                    named["log_dir"] = stack.enter_context(folder)
                callbacks = [GradHealthCallback(**named)]
            model = network(**arguments)
            error = None
            with injector if is_guarded else contextlib.nullcontext():
                try:
                    model.fit(
                        X,
                        Y,
                        batch_size=4,
                        epochs=self.epochs,
                        verbose=0,
                        callbacks=callbacks,
                    )
                except ENDS as raised:
                    error = let_go(raised)
            if callbacks:
                report = callbacks[0].report
                if self.is_logged:
                    known = steps_in(callbacks[0].log_dir)
                    self.lost = report_steps(callbacks[0]) - len(known)
            self.left = [
                name
                for part in (model, model.optimizer)
                for name in ("train_step", "apply", "scale_loss")
                if name in vars(part)
            ]

            def again():
                # Of a first trace that was broken off, bare too, TensorFlow
                # lets the function make no variables.
                model.make_train_function(force=True)
                model.fit(X, Y, batch_size=4, verbose=0)

            self.again = again
            return Outcome(values_of(model), error, report)


class Example:
    """The bad example of a rule: what only it calls is called here.

    Args:
        rule: The rule.
        eager: How it is run.
    """

    is_training, may_differ = True, True
    left = ()

    def __init__(self, rule, eager):
        self.rule, self.eager = rule, eager

    def run(self, injector, is_guarded):
        """Trains; returns an `Outcome`."""
        from keras_gradguard import GradHealthCallback, check_loss
        from tests.plain import alone, model_for
        from tests.rules.test_bad_and_good import fit, load

        report, error = None, None
        with tempfile.TemporaryDirectory() as folder:
            module = load(self.rule.bad, folder, f"example_{self.rule.code}")
            try:
                if getattr(module, "CHECK", False):
                    if is_guarded:
                        with injector:
                            y_pred = np.abs(X[:, :3]) + 0.1
                            report = check_loss(module.loss, Y, y_pred)
                    return Outcome([], error, report)
                made = getattr(module, "model", None)
                model = made() if made else model_for(module.loss)
                model.run_eagerly = self.eager
                callbacks = []
                if is_guarded:
                    arguments = getattr(module, "ARGUMENTS", {})
                    callbacks = [GradHealthCallback(every=1, **arguments)]
                x = getattr(module, "inputs", lambda x: x)(X)
                y = getattr(module, "targets", lambda y: y)(Y)
                train = model.fit

                def guarded(*arguments, **named):
                    with injector if is_guarded else contextlib.nullcontext():
                        return train(
                            *arguments,
                            **{
                                "epochs": getattr(module, "EPOCHS", 1),
                                "batch_size": 16,
                                "verbose": 0,
                                "callbacks": callbacks,
                                **named,
                            },
                        )

                model.fit = guarded
                try:
                    with alone(module):
                        getattr(module, "run", fit)(model, x, y)
                except ENDS as raised:
                    error = let_go(raised)
                report = callbacks[0].report if callbacks else None
                return Outcome([], error, report)
            finally:
                sys.modules.pop(module.__name__, None)


def examples():
    """The examples of all rules, by name; the ones that never end last."""
    from keras_gradguard.rules import RULES

    return {
        f"{rule.code} {'eager' if eager else 'compiled'}": Example(rule, eager)
        for rule in RULES
        if rule.bad
        for eager in (True, False)
    }


class Loop:
    """A custom loop in `watch`."""

    is_training = True
    lost = 0

    def __init__(
        self,
        model=None,
        watch=None,
        is_graph=False,
        is_logged=False,
        may_differ=False,
    ):
        self.model, self.watch = model or {}, watch or {}
        self.is_graph, self.is_logged = is_graph, is_logged
        self.may_differ = may_differ

    def run(self, injector, is_guarded):
        """Trains; returns an `Outcome`."""
        from keras_gradguard import watch

        model = network(**self.model)
        optimizer = keras.optimizers.Adam(0.01)

        def step_of(optimizer):
            def step(x, y):
                with tf.GradientTape() as tape:
                    error = tf.square(y - model(x, training=True))
                    loss = tf.reduce_mean(error)
                variables = model.trainable_variables
                optimizer.apply(tape.gradient(loss, variables), variables)

            return tf.function(step) if self.is_graph else step

        step = step_of(optimizer)
        x, y = tf.constant(X), tf.constant(Y)
        health, error = None, None
        with contextlib.ExitStack() as stack:
            named = {"every": 1, **self.watch}
            if self.is_logged:
                folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                named["log_dir"] = stack.enter_context(folder)
            try:
                if not is_guarded:
                    for _ in range(4):
                        step(x, y)
                else:
                    health = watch(model, **named)
                    with injector, health:
                        for _ in range(4):
                            step(x, y)
                            health.step()
            except ENDS as raised:
                error = let_go(raised)
            if self.is_logged and health is not None:
                known = steps_in(named["log_dir"])
                self.lost = report_steps(health) - len(known)
        # A first trace that is broken off leaves an optimizer without values,
        # and a function that may make none, bare too.
        again = step_of(keras.optimizers.Adam(0.01)) if self.is_graph else step
        self.again = lambda: again(x, y)
        self.left = [
            name for name in ("apply", "scale_loss") if name in vars(optimizer)
        ]
        report = None if health is None else health.report
        return Outcome(values_of(model, optimizer), error, report)


class Diagnose:
    """`diagnose` beside a model, which stays as it was."""

    is_training, may_differ = True, False
    left = ()

    def __init__(self, **model):
        self.model = model

    def run(self, injector, is_guarded):
        """Looks at the model; returns an `Outcome`."""
        from keras_gradguard import diagnose

        model = network(**self.model)
        report, error = None, None
        if is_guarded:
            try:
                with injector:
                    report = diagnose(model, X, Y)
            except Exception as raised:
                error = raised
        return Outcome(values_of(model), error, report)


class CheckLoss:
    """`check_loss` of one loss."""

    is_training, may_differ = True, False
    left = ()

    def __init__(self, loss):
        self.loss = loss

    def run(self, injector, is_guarded):
        """Looks at the loss; returns an `Outcome`."""
        from keras_gradguard import check_loss

        report, error = None, None
        if is_guarded:
            try:
                with injector:
                    report = check_loss(self.loss, Y, np.abs(X[:, :3]))
            except Exception as raised:
                error = raised
        return Outcome([], error, report)


class Command:
    """A command; a fault is exit code 2 and one sentence."""

    is_training = may_differ = False
    left = ()

    def __init__(self, *arguments, needs=None):
        self.arguments, self.needs = arguments, needs
        self.said = ""

    def run(self, injector, is_guarded):
        """Runs the command; returns an `Outcome`."""
        from keras_gradguard.__main__ import main

        said, error = io.StringIO(), None
        arguments = [str(a).format(**stored()) for a in self.arguments]
        if is_guarded:
            with (
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                try:
                    with injector:
                        main(list(arguments))
                except Exception as raised:
                    error = raised
        self.said = said.getvalue()
        return Outcome([], error, None)


class Tab:
    """The routes of the tab; a fault is a sentence in place of an answer.

    A fault in what reads a record is told as a record that cannot be read.
    """

    is_training = may_differ = False
    left = ()

    def __init__(self, *routes):
        self.routes = routes
        self.said = ""

    def run(self, injector, is_guarded):
        """Asks the routes; returns an `Outcome`."""
        from werkzeug import test as werkzeug_test

        self.said, error = "", None
        if not is_guarded:
            return Outcome([], None, None)
        multiplexer, provider = board(stored()["log_dir"])
        from tensorboard.plugins import base_plugin

        from keras_gradguard.view.loader import GradGuardLoader

        try:
            with injector:
                plugin = GradGuardLoader().load(
                    base_plugin.TBContext(
                        data_provider=provider, multiplexer=multiplexer
                    )
                )
                plugin.frontend_metadata()
                plugin.is_active()
                apps = plugin.get_plugin_apps()
                for route in self.routes:
                    path = route.partition("?")[0]
                    client = werkzeug_test.Client(apps[path])
                    answer = client.get(route)
                    text = answer.get_data(as_text=True)
                    is_told = answer.status_code != 200
                    if is_told or '"error": "' in text:
                        # Each route that is hit says so; one will do.
                        self.said = f"GG900, or the like: {text}"
        except Exception as raised:
            error = raised
        return Outcome([], error, None)


def board(folder):
    """What a TensorBoard on a folder gives its plugins."""
    from tensorboard.backend.event_processing import (
        data_provider,
        plugin_event_multiplexer,
    )

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(folder)
    multiplexer.Reload()
    return multiplexer, data_provider.MultiplexerDataProvider(
        multiplexer, folder
    )


_stored = {}


def stored():
    """Files of a training, made once: a log folder, a report, an incident."""
    if _stored:
        return _stored
    from keras_gradguard import GradHealthCallback

    folder = tempfile.mkdtemp()
    source = pathlib.Path(folder, "stored_model.py")
    source.write_text(
        "import keras\n"
        "from tests.faults.trainings import Late, network\n\n\n"
        "def make():\n    return network(Late)\n"
    )
    model = network(Late)
    callback = GradHealthCallback(folder, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    report = pathlib.Path(folder, "report.json")
    known = callback.report.to_json()
    report.write_text(known if isinstance(known, str) else json.dumps(known))
    (incident,) = pathlib.Path(folder, "incidents").iterdir()
    fixable = _fixable(folder)
    _stored.update(
        log_dir=folder,
        report=report,
        incident=incident,
        model=f"{source}:make",
        fixable=fixable,
    )
    return _stored


def _fixable(folder):
    """A report with a checked patch."""
    import importlib.util

    from keras_gradguard import GradHealthCallback

    source = pathlib.Path(folder, "stored_loss.py")
    source.write_text(
        "import keras\n\n\n"
        "def loss(y_true, y_pred):\n"
        "    return keras.ops.mean(keras.ops.round(y_pred) - y_true) ** 2\n"
    )
    spec = importlib.util.spec_from_file_location("stored_loss", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stored_loss"] = module
    spec.loader.exec_module(module)
    model = network(loss=module.loss)
    callback = GradHealthCallback(every=1)
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[callback])
    report = pathlib.Path(folder, "fixable.json")
    report.write_text(callback.report.to_json())
    return report


CUT = {"middle": Hard}
TRAININGS = {
    "fit": Fit(callback={"log_norm": True}, is_logged=True),
    "fit eager": Fit({"eager": True}, {"log_norm": True}, is_logged=True),
    "cut": Fit(CUT, {}, is_logged=True, epochs=1),
    "cut eager": Fit({**CUT, "eager": True}, {}, epochs=1),
    "addend": Fit({"loss": partly_cut}, {}, epochs=1),
    "nan": Fit({"middle": Late}, {}, is_logged=True),
    "nan eager": Fit({"middle": Late, "eager": True}, {}),
    "nan skip": Fit(
        {"middle": Late}, {"on_nonfinite": "skip"}, may_differ=True
    ),
    "cut raise": Fit(CUT, {"on_break": "raise"}, may_differ=True, epochs=1),
    "cut stop": Fit(CUT, {"on_break": "stop"}, may_differ=True, epochs=1),
    "no gradient": Fit({"loss": argmax_loss}, {}, may_differ=True, epochs=1),
    "own step": Fit({"is_own": True}, {}),
    "own step eager": Fit({"is_own": True, "eager": True}, {}, epochs=1),
    "histograms": Fit(
        callback={"scalars": "histograms"}, is_logged=True, epochs=1
    ),
    "dead": Fit(
        {
            "last": {
                "activation": "relu",
                "bias_initializer": "zeros",
                "kernel_initializer": "zeros",
            }
        },
        {"thresholds": {"patience": 2}},
    ),
    "loss": Fit({}, None, guard_loss={}, epochs=1),
    "loss cut": Fit(
        {"loss": argmax_loss},
        None,
        guard_loss={"on_break": "warn"},
        may_differ=True,
        epochs=1,
    ),
    "both": Fit({"eager": True}, {}, guard_loss={}, epochs=1),
    "failing": Fit({"loss": numpy_loss}, {}, epochs=1),
    "replicas": Fit({}, {}, is_logged=True, epochs=1, replicas=True),
    "watch": Loop(is_logged=True),
    "watch graph": Loop(is_graph=True),
    "watch cut": Loop(CUT),
    "watch graph cut": Loop(CUT, is_graph=True),
    "watch nan": Loop({"middle": Late}, {"on_nonfinite": "warn"}),
    "watch skip": Loop(
        {"middle": Late}, {"on_nonfinite": "skip"}, may_differ=True
    ),
    "diagnose": Diagnose(),
    "diagnose cut": Diagnose(**CUT, loss=partly_cut),
    "check_loss": CheckLoss("mse"),
    "check_loss cut": CheckLoss(partly_cut),
    "explain": Command("explain", "GG102"),
    "rules": Command("rules"),
    "report": Command("report", "{report}"),
    "report folder": Command("report", "{log_dir}"),
    "fix": Command("fix", "{fixable}"),
    "replay": Command("replay", "{incident}", "--model", "{model}"),
    "tab": Tab(
        "/runs",
        "/norms?run=gradients",
        "/details?run=gradients",
        "/index.js",
    ),
}
os.environ["KERAS_GRADGUARD_STRICT"] = "0"
