"""The steady state in closed form."""
