"""Which trial comes next: the queue, the search, early stopping. Decides on plain data."""
