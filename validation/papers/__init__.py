"""What papers published, and what moesim predicts of it."""
