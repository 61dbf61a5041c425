"""A patch of the code that makes layers was tried on the layers that exist."""

import contextlib
import dataclasses
import importlib.util
import linecache
import sys

import keras
import numpy as np
import pytest

from keras_gradguard import GradHealthCallback, diagnose
from keras_gradguard.advice.fix import file_patches, fixed
from keras_gradguard.advice.layers import layer_rewrites
from keras_gradguard.advice.patches import Patches
from keras_gradguard.advice.rewrites import rewrites
from keras_gradguard.advice.site import Site, edited
from keras_gradguard.advice.trial import LayerTrial, attributes_set
from keras_gradguard.backend import step_evidence
from keras_gradguard.graph.trace import Step
from keras_gradguard.records.finding import Finding, Place
from tests.fitting import MODES, NAMES
from tests.plain import alone

modes = pytest.mark.parametrize("eager", MODES, ids=NAMES)
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")

SEQUENTIAL = """\
import keras

LOW = keras.initializers.Constant(-10.0)
HIGH = keras.initializers.Constant(16.0)


def model():
    network = keras.Sequential([keras.Input((4,))])
    {body}
    network.add(keras.layers.Dense(3, name="head"))
    network.compile("sgd", loss="mse")
    return network
"""
LAYER = """\
import keras
import tensorflow as tf


class Own(keras.layers.Layer):
    def {method}:
        {first}
        self.first = {made}
        {second}

    def call(self, inputs):
        {call}


def model():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            Own(name="own"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    network.compile("sgd", loss="mse")
    return network
"""
SECOND_DERIVATIVE = """\
import keras
import tensorflow as tf


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, "relu")
        self.head = keras.layers.Dense(1, use_bias=False)

    def call(self, x):
        return self.head(self.hidden(x))

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    u = self(x)
                slope = inner.gradient(u, x)
            curvature = outer.gradient(slope, x)
            loss = tf.reduce_mean(tf.square(curvature + tf.sin(x)))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def model():
    network = Network()
    network.compile("sgd")
    return network
"""


def added(*lines):
    """The program of a network with some lines that add its first layers."""
    return SEQUENTIAL.replace("{body}", "\n    ".join(lines))


def own(made, first, second="", call="return inputs @ self.first", build=True):
    """The program of a network with a layer of the user's."""
    method = "build(self, input_shape)" if build else "__init__(self, **kwargs)"
    parts = {"method": method, "made": made, "first": first}
    return LAYER.format(second=second, call=call, **parts)


INIT = "super().__init__(**kwargs)"
# The program, the code, and the line of the patch.
CASES = {
    "bias": (
        added(
            "network.add(",
            "    keras.layers.Dense(8, 'relu', bias_initializer=LOW)",
            ")",
        ),
        "GG201",
        "keras.layers.Dense(8, 'relu', bias_initializer=\"zeros\")",
    ),
    "activation": (
        added(
            "network.add(keras.layers.Dense(8, bias_initializer=LOW))",
            "network.add(keras.layers.Activation('relu'))",
        ),
        "GG201",
        'network.add(keras.layers.Activation("leaky_relu"))',
    ),
    "relu": (
        added(
            "network.add(keras.layers.Dense(8, bias_initializer=LOW))",
            "network.add(keras.layers.ReLU())",
        ),
        "GG201",
        "network.add(keras.layers.ReLU(negative_slope=0.2))",
    ),
    "relu_in_call": (
        own(
            "self.add_weight(shape=(8,), initializer='zeros')",
            "",
            call="return tf.nn.relu(inputs + self.first - 10.0)",
        ),
        "GG201",
        "return tf.nn.leaky_relu(inputs + self.first - 10.0)",
    ),
    "factors": (
        own(
            "self.add_weight(shape=(8, 2), initializer='zeros')",
            "",
            "self.second = self.add_weight((2, 8), 'zeros')",
            "return inputs + inputs @ tf.matmul(self.first, self.second)",
        ),
        "GG208",
        "self.first = self.add_weight(shape=(8, 2), "
        'initializer="glorot_uniform")',
    ),
    "kernels": (
        added(
            "network.add(keras.layers.Dense(8, 'tanh',",
            "                               kernel_initializer='zeros'))",
            "network.add(keras.layers.Dense(5, 'tanh',",
            "                               kernel_initializer='zeros'))",
        ),
        "GG208",
        'kernel_initializer="glorot_uniform"))',
    ),
    "second_derivative": (
        SECOND_DERIVATIVE,
        "GG212",
        'self.hidden = keras.layers.Dense(8, "tanh")',
    ),
    "saturated": (
        added(
            "network.add(",
            "    keras.layers.Dense(8, 'sigmoid', bias_initializer=HIGH)",
            ")",
        ),
        "GG231",
        "keras.layers.Dense(8, 'sigmoid', bias_initializer=\"zeros\")",
    ),
    "saturated_kernel": (
        added(
            "wide = keras.initializers.RandomNormal(stddev=1e4)",
            "network.add(keras.layers.Dense(8, 'tanh', True, wide))",
        ),
        "GG231",
        "network.add(keras.layers.Dense(8, 'tanh', True, \"glorot_uniform\"))",
    ),
    "saturated_for_good": (
        added(
            "high = keras.initializers.Constant(200.0)",
            "network.add(keras.layers.Dense(8, 'sigmoid',",
            "                               bias_initializer=high))",
        ),
        "GG204",
        'bias_initializer="zeros"))',
    ),
    "deep": (
        added(
            "for _ in range(9):",
            "    network.add(keras.layers.Dense(8, activation='sigmoid'))",
        ),
        "GG231",
        'network.add(keras.layers.Dense(8, activation="relu", '
        'kernel_initializer="he_normal"))',
    ),
    "variable": (
        own("tf.Variable(tf.ones((8, 8)), name='code')", INIT, build=False),
        "GG308",
        "self.first = self.add_weight(shape=(8, 8), "
        "initializer=\"ones\", name='code')",
    ),
    "random_variable": (
        own("tf.Variable(tf.random.normal((8, 8)))", INIT, build=False),
        "GG308",
        "self.first = keras.Variable(tf.random.normal((8, 8)))",
    ),
    "one_unit": (
        added("network.add(keras.layers.Dense(6, 'tanh'))")
        .replace("Dense(3, ", "Dense(1, activation='softmax', ")
        .replace("LOW", "ROWS = 4\nLOW", 1),
        "GG205",
        'network.add(keras.layers.Dense(1, activation="sigmoid", name="head"))',
    ),
    "pixels": (
        added("network.add(keras.layers.Rescaling(1 // 255))"),
        "GG211",
        "network.add(keras.layers.Rescaling(1 / 255))",
    ),
}


@pytest.fixture(autouse=True)
def _modules_are_forgotten(tmp_path):
    """Lines of layers are looked for in all modules that are loaded."""
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    for file in [f for f in linecache.cache if str(tmp_path) in f]:
        del linecache.cache[file]


@pytest.fixture(autouse=True)
def _without_other_tests():
    """A layer that the code of another test may have made has no line."""
    with alone(sys.modules[__name__]):
        yield


def module_of(folder, source, name="layer_page"):
    """Imports a program from a file of its own, and forgets others."""
    for known in ("layer_page", "patched_page"):
        sys.modules.pop(known, None)
    path = folder / f"{name}.py"
    linecache.cache.pop(str(path), None)
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def trained(module, eager, callbacks=()):
    """Trains a program's model, one batch an epoch.

    Of 8 rows and more some processors round a softmax of one value.
    """
    rows = getattr(module, "ROWS", 16)
    keras.utils.set_random_seed(3)
    keras.backend.clear_session()
    model = module.model()
    model.run_eagerly = eager
    x, y = X[:rows], Y[:rows]
    model.fit(
        x, y, batch_size=16, epochs=8, verbose=0, callbacks=list(callbacks)
    )
    return model


def reported(module, eager):
    """Returns the report of a training, whatever becomes of it."""
    callback = GradHealthCallback(every=1)
    try:
        trained(module, eager, [callback])
    except Exception:  # noqa: BLE001
        # What a cut raises is not the subject here.
        assert callback.report.diagnoses
    return callback.report


@pytest.mark.filterwarnings("ignore::UserWarning")
@modes
@pytest.mark.parametrize("case", CASES)
def test_patch_of_a_construction(case, eager, tmp_path):
    """It is of the code that made the layer; the patched file trains."""
    source, code, line = CASES[case]
    module = module_of(tmp_path, source)
    report = reported(module, eager)
    told = next(d for d in report.diagnoses if d.code == code)
    (item,) = told.help
    assert item.checked and item.patch.file == module.__file__
    assert item.after.strip() == line
    _, new = fixed(module.__file__, file_patches(report)[module.__file__])
    del module
    again = module_of(tmp_path, new, "patched_page")
    report = reported(again, eager)
    assert [d for d in report.diagnoses if d.severity != "note"] == []
    assert {"ok"} == {row.status for row in report.variables}


@pytest.mark.filterwarnings("ignore::UserWarning")
@modes
@pytest.mark.parametrize(
    "case", ["bias", "relu", "factors", "deep", "variable"]
)
def test_training_is_that_without_the_guard(case, eager, tmp_path):
    """Trials leave weights, optimizer, layers and random state as they are."""
    module = module_of(tmp_path, CASES[case][0])
    found = []
    for callbacks in ([], [GradHealthCallback(every=1)]):
        model = trained(module, eager, callbacks)
        drawn = [keras.random.normal((3,)), np.random.normal(size=3)]
        variables = [*model.variables, *model.optimizer.variables]
        arrays = [np.asarray(v) for v in variables]
        attributes = [
            (type(layer), sorted(vars(layer)), getattr(layer, "activation", 0))
            for layer in model._flatten_layers()
        ]
        found.append(([*arrays, *map(np.asarray, drawn)], attributes))
    assert any(d.help[0].checked for d in callbacks[0].report.diagnoses)
    (plain, known), (guarded, now) = found
    assert known == now
    assert len(plain) == len(guarded)
    for one, other in zip(plain, guarded, strict=True):
        np.testing.assert_array_equal(one, other)


def test_patch_without_training(tmp_path):
    """`diagnose` tries it as well."""
    module = module_of(tmp_path, CASES["one_unit"][0])
    report = diagnose(module.model(), X[:4], Y[:4, :1])
    (told,) = report.diagnoses
    assert told.help[0].checked
    assert told.help[0].after.strip() == CASES["one_unit"][2]


def step_of(model):
    """The step of a model on the batch."""
    variables = tuple(model.trainable_variables)
    batch = tuple(map(keras.ops.convert_to_tensor, (X, Y[:, :1])))
    evidence = step_evidence(model, batch)
    paths = tuple(variable.path for variable in variables)
    return Step(model, batch, variables, paths, evidence)


def finding_of(step, cause, layer, kind="zero", **fields):
    """A finding about all variables of a step."""
    module, line = fields.pop("module"), fields.pop("line", 9)
    place = Place(module.__file__, line, "model")
    return Finding(
        kind, place, layer=layer, variables=step.paths, cause=cause, **fields
    )


def proposed(finding, code, step):
    """The texts of the lines that are proposed."""
    return [
        edited(site.text, rewrite.edits)
        for site, rewrite in layer_rewrites(finding, code, step)
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name", ["Dense(1, 'softmax')", "Activation('softmax')"]
)
def test_softmax_of_one_unit(name, tmp_path):
    """A processor may round its gradient; the sigmoid has a larger one."""
    source = added(
        "network.add(keras.layers.Dense(1))",
        f"network.add(keras.layers.{name})",
        "network.compile('sgd', 'mse')",
        "return network",
    )
    module = module_of(tmp_path, source)
    model = module.model()
    step = step_of(model)
    layer = model.layers[-1]
    finding = finding_of(step, "one_unit_softmax", layer.name, module=module)
    before = layer.activation
    patches = Patches.of_step(step, contextlib.nullcontext)
    found = patches.about(finding, "GG205")
    count = f"all {len(step.paths)} variables"
    assert found.checked.startswith(f"{count} got a finite gradient")
    after = f"network.add(keras.layers.{name})".replace(
        "'softmax'", '"sigmoid"'
    )
    assert found.after.strip() == after
    assert layer.activation is before


def test_layer_that_two_lines_may_have_made(tmp_path):
    """Nothing is proposed: the patch might be of another layer."""
    line = "network.add(keras.layers.Dense(8, 'relu', bias_initializer=LOW))"
    for lines, number in (([line], 1), ([line, line], 0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        module = module_of(folder, added(*lines))
        step = step_of(module.model())
        layer = step.model.layers[0].path
        finding = finding_of(step, "dead_relu", layer, module=module)
        # The initializer, or a slope for negative inputs.
        assert len(proposed(finding, "GG201", step)) == 2 * number


def test_layers_of_one_line_that_differ(tmp_path):
    """A change of the line would be one of layers that are well."""
    line = "    network.add(keras.layers.Dense(8, kind))"
    for kinds, number in ((("relu", "relu"), 1), (("relu", "tanh"), 0)):
        source = added(f"for kind in {kinds}:", line)
        module = module_of(tmp_path, source)
        step = step_of(module.model())
        layer = step.model.layers[0].path
        finding = finding_of(step, "dead_relu", layer, module=module)
        assert len(proposed(finding, "GG201", step)) == number


def test_units_that_died_get_no_patch(tmp_path):
    """The learning rate killed them, and would kill them once more."""
    module = module_of(tmp_path, CASES["bias"][0])
    step = step_of(module.model())
    layer = step.model.layers[0].path
    finding = finding_of(step, "dead_relu", layer, module=module)
    assert proposed(finding, "GG201", step)
    later = dataclasses.replace(finding, from_start=False)
    assert proposed(later, "GG201", step) == []


def test_weights_that_were_trained_are_not_drawn_anew(tmp_path):
    """What the initializer gave is no cause of what they are now."""
    module = module_of(tmp_path, CASES["bias"][0])
    step = step_of(module.model())
    step.model.layers[0].bias.assign(np.full(8, -3.0))
    layer = step.model.layers[0].path
    finding = finding_of(step, "dead_relu", layer, module=module)
    (text,) = proposed(finding, "GG201", step)
    assert '"leaky_relu"' in text


def test_output_layer_stays_a_probability(tmp_path):
    """ReLU is for layers inside."""
    source = added("network.add(keras.layers.Dense(8, 'sigmoid'))")
    source = source.replace("Dense(3, ", "Dense(3, 'sigmoid', ")
    module = module_of(tmp_path, source)
    step = step_of(module.model())
    for number, count in ((0, 1), (1, 0)):
        layer = step.model.layers[number].path
        finding = finding_of(
            step, "vanishing", layer, "vanishing", module=module
        )
        assert len(proposed(finding, "GG231", step)) == count


GATED = """\
import keras


def model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, "tanh")(inputs)
    hidden = keras.layers.Dropout(0.5)(hidden)
    gate = keras.layers.Dense(8, "sigmoid", name="gate")(hidden)
    outputs = keras.layers.Dense(3, name="head")(hidden * gate)
    network = keras.Model(inputs, outputs)
    network.compile("sgd", loss="mse")
    return network
"""


def test_gate_stays_between_0_and_1(tmp_path):
    """ReLU is for values that are not multiplied by others; a mask is none."""
    for source, count in (
        (GATED, 0),
        (GATED.replace("hidden * gate", "gate"), 1),
        (
            GATED.replace("hidden * gate", "dropped").replace(
                "    outputs",
                "    dropped = keras.layers.Dropout(0.5)(gate)\n    outputs",
            ),
            1,
        ),
    ):
        # A file of its own: the functions of the one before are still there.
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        module = module_of(folder, source)
        step = step_of(module.model())
        finding = finding_of(
            step, "vanishing", "gate", "vanishing", module=module
        )
        assert len(proposed(finding, "GG231", step)) == count


def test_change_that_does_not_help_is_not_shown(tmp_path):
    """Inputs that are zero stay zero, whatever the activation."""
    module = module_of(tmp_path, CASES["bias"][0])
    step = step_of(module.model())
    zeros = keras.ops.zeros((16, 4)), step.data[1]
    evidence = step_evidence(step.model, zeros)
    step = dataclasses.replace(step, data=zeros, evidence=evidence)
    layer = step.model.layers[0].path
    finding = finding_of(step, "dead_relu", layer, module=module)
    trial, found = LayerTrial(step, finding), []
    weights = step.model.get_weights()
    for _, rewrite in layer_rewrites(finding, "GG201", step):
        found.append(trial.check(rewrite))
    assert found == [None, None]
    for one, other in zip(weights, step.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradient_that_stays_small_is_not_shown(tmp_path):
    """A change must lift what vanished beside the largest gradient."""
    module = module_of(tmp_path, CASES["deep"][0])
    model = module.model()
    step = step_of(model)
    first = model.layers[0]
    hit = (first.kernel.path, first.bias.path)
    finding = finding_of(
        step, "vanishing", first.path, "vanishing", module=module
    )
    finding = dataclasses.replace(finding, variables=hit)
    ((_, rewrite),) = layer_rewrites(finding, "GG231", step)
    trial = LayerTrial(step, finding)
    assert trial.check(rewrite) is not None
    for name in ("tanh", "sigmoid"):
        function = getattr(keras.activations, name)
        changed = dataclasses.replace(
            rewrite,
            attributes=((first, "activation", function),),
            weights=(),
        )
        assert trial.check(changed) is None


def test_attributes_are_put_back_after_an_error():
    """Keras itself notices nothing of it."""
    layer = keras.layers.Dense(2, "relu")
    before = dict(vars(layer))
    with pytest.raises(ZeroDivisionError):
        with attributes_set([(layer, "activation", abs)]):
            assert layer.activation is abs
            raise ZeroDivisionError
    assert vars(layer) == before


def test_softmax_over_the_rows_of_a_batch_is_not_proposed(tmp_path):
    """Axis -2 of a matrix is the batch: its rows would share the gradient."""
    source = "from keras import ops\n\n\ndef loss(y_true, y_pred):\n"
    source += "    return ops.mean(ops.softmax(y_pred) * y_true)\n"
    module = module_of(tmp_path, source)
    finding = Finding("zero", Place(module.__file__, 5, "loss"))
    site = Site(finding)
    texts = [edited(site.text, r.edits) for r in rewrites(site, "GG205")]
    assert texts
    assert not any("axis=-2" in t or "axis=0" in t for t in texts)


CAPTURED = """\
import keras
import tensorflow as tf


def model():
    body = keras.layers.Dense(6, activation="tanh", name="body")
    features = keras.Input((4,))
    hidden = keras.layers.Lambda({lambda_}, output_shape=(6,))(features)
    network = keras.Model(features, keras.layers.Dense(1)(hidden))
    network.compile("sgd", loss="mse")
    return network
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
@modes
@pytest.mark.parametrize(
    ("lambda_", "line"),
    [
        ("lambda t: body(t)", "hidden = body(features)"),
        ("lambda t: 2.0 * body(t)", None),
        ("lambda t: body(tf.abs(t))", None),
    ],
)
def test_layer_in_a_lambda(lambda_, line, eager, tmp_path):
    """It is called directly, unless the function does more."""
    module = module_of(tmp_path, CAPTURED.replace("{lambda_}", lambda_))
    report = reported(module, eager)
    (told,) = [d for d in report.diagnoses if d.code == "GG309"]
    patches = [item for item in told.help if item.patch is not None]
    if line is None:
        assert [] == patches
        return
    assert line == patches[0].after.strip()
    _, new = fixed(module.__file__, file_patches(report)[module.__file__])
    report = reported(module_of(tmp_path, new, "patched_page"), eager)
    assert [] == [d for d in report.diagnoses if d.severity != "note"]
    assert 4 == len(report.variables)
