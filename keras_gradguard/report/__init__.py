"""Step 5 of 6: what was found, put into words, files and summaries."""
