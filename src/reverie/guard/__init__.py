"""What keeps a run safe: the directory lock, signals, memory errors, and the report on a non-finite update."""
