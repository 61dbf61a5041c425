"""All code that imports TensorFlow."""
