"""Tasks: examples, how they are scored, and where they come from."""
