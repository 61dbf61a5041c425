"""How a step is timed: turns, rounds, processes."""
