"""Vectorized environments: in one process, in worker processes, or native."""
