"""What Keras knows of the user's model; does not import TensorFlow."""
