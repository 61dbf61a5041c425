"""Measures gradients and updates in the step's own graph."""
