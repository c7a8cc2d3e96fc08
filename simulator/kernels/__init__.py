"""The time of one kernel or collective: pure functions of its shape, its hardware and its coefficients."""
