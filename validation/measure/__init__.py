"""Microbenchmarks of this machine with PyTorch, in the table format that kernels are fitted to.

Needs PyTorch and numpy to measure and pandas with pyarrow to write; nothing else, so that the folder of this project
can be taken to a bare GPU machine and run there: ``python -m validation.measure --device cuda --out DIR``.
"""
