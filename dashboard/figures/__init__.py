"""Charts as pure functions from frames to a figure, its alternative text and its table."""
