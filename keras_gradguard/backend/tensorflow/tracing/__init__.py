"""Makes a graph of ops from a training step."""
