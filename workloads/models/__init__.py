"""Models: their shape, sizes and work, read from files of several kinds."""
