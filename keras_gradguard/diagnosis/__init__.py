"""Explains why a gradient is missing, zero, or not finite."""
