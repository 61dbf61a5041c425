"""Settings that must stand before TensorFlow is imported."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_GRADGUARD_STRICT", "1")


def pytest_collection():
    """Makes two devices of one, before TensorFlow has counted them."""
    import tensorflow as tf

    (device,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(device, [half, half])
