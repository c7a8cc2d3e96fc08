"""Predicted against measured serving runs."""
