"""Every family of `keras.applications`: no alarm, and the norms of a tape."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard import GradHealthCallback
from tests.ways.alike import norms_of

# The member of each family with the fewest weights; the smallest input.
SMALLEST = {
    "convnext": ("ConvNeXtTiny", 32),
    "densenet": ("DenseNet121", 32),
    "efficientnet": ("EfficientNetB0", 32),
    "efficientnet_v2": ("EfficientNetV2B0", 32),
    "inception_resnet_v2": ("InceptionResNetV2", 75),
    "inception_v3": ("InceptionV3", 75),
    "mobilenet": ("MobileNet", 32),
    "mobilenet_v2": ("MobileNetV2", 32),
    "mobilenet_v3": ("MobileNetV3Small", 32),
    "nasnet": ("NASNetMobile", 32),
    "resnet": ("ResNet50", 32),
    "resnet_v2": ("ResNet50V2", 32),
    "vgg16": ("VGG16", 32),
    "vgg19": ("VGG19", 32),
    "xception": ("Xception", 71),
}
QUICK = ("mobilenet",)


def families():
    """The modules of `keras.applications` that make models."""
    return sorted(
        name
        for name, module in vars(keras.applications).items()
        if inspect.ismodule(module)
        and name not in ("imagenet_utils",)
        and hasattr(module, "preprocess_input")
    )


def test_no_family_is_left_out():
    """A new family of Keras is to be added here; twins are one family."""
    homes = {
        getattr(keras.applications, member).__module__
        for member, _ in SMALLEST.values()
    }
    for name in families():
        module = getattr(keras.applications, name)
        own = [f for f in vars(module).values() if inspect.isfunction(f)]
        assert homes & {function.__module__ for function in own}, name


def built(name):
    """The smallest member of a family, for ten classes of small images."""
    member, size = SMALLEST[name]
    keras.utils.set_random_seed(2)
    arguments = {"weights": None, "classes": 10, "input_shape": (size, size, 3)}
    if name == "mobilenet_v3":
        arguments["include_preprocessing"] = False
    model = getattr(keras.applications, member)(**arguments)
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    return model, images.astype("float32"), np.array([1, 7])


def cases():
    """The quick families run always, the others with `-m slow`."""
    return [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in SMALLEST
    ]


@pytest.mark.parametrize("name", cases())
def test_application(name):
    """One guarded step of two images: a row per variable and no alarm.

    The tape runs on the same seeds of dropout, set anew before each step.
    """
    model, x, y = built(name)
    variables = model.trainable_variables
    seeds = [v for v in model.variables if "seed" in v.path]
    kept = [seed.numpy() for seed in seeds]
    callback = GradHealthCallback(every=1)
    model.fit(
        x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[callback]
    )
    report = callback.report
    assert [v.path for v in variables] == [row.path for row in report.variables]
    assert report.ok, str(report)
    assert {"ok", "zero"} >= {row.status for row in report.variables}
    for seed, value in zip(seeds, kept, strict=True):
        seed.assign(value)
    two = [variables[-1], variables[-2]]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
        return tape.gradient(loss, two)

    found = [row.norm for row in report.variables[:-3:-1]]
    np.testing.assert_allclose(found, norms_of(gradients()), rtol=1e-4)
