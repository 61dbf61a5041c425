"""What a Keras backend gives the guard; TensorFlow is the one there is."""
