"""Several processes: those that do tasks, that train one model together, and that make batches ahead of time."""
