"""A training run: the loop, its directory, its state, evaluation, progress and logging."""
