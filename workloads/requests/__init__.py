"""Request traces: recorded, or generated."""
