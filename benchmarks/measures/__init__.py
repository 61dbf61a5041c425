"""What else is measured: first fit, cuts, size, memory, growth, copies."""
