"""Safety of a run: the directory lock, signals, memory errors, and the report on a non-finite update."""
