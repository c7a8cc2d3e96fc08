"""Routing traces: which experts each token went to, recorded or generated."""
