"""Step 6 of 6: the Gradients tab of TensorBoard; no TensorFlow, no Keras."""
