"""Attaches to a training, and leaves no trace."""
