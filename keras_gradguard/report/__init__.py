"""Writes what was found: TensorBoard, cards, incidents."""
