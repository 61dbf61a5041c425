"""A training step as a graph of ops, whatever made it."""
