"""Step 4 of 5: trace the step, locate the cut, explain it."""
