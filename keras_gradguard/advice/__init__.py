"""Changes of the user's own line that would correct it, each one tried."""
