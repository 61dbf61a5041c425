"""The Gradients tab of TensorBoard; needs neither TensorFlow nor Keras."""
