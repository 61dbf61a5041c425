"""The private corners of TensorFlow, each used in one place."""
