"""Scaling a live deployment: mechanisms, policies, and what requests meet meanwhile."""
