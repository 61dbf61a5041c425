"""From the numbers of a record to the health of each variable."""
