"""Settings that must stand before TensorFlow is imported."""

import gc
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_GRADGUARD_STRICT", "1")


def pytest_collection():
    """Makes two devices of one, before TensorFlow has counted them."""
    import tensorflow as tf

    (device,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(device, [half, half])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Lets the garbage collector pass by what earlier tests have left.

    TensorFlow keeps graphs for good, and Keras collects in each
    `clear_session`: the tests at the end took four times as long.
    """
    gc.collect()
    gc.freeze()
