"""Conducts one training, from the hook to the report."""
