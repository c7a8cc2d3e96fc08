"""How fast the simulator itself is: ``python -m benchmarks``."""
