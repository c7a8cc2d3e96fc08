"""Predicted against measured kernels, row by row."""
