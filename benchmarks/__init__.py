"""What the guard costs, measured beside what people use today."""
