"""From examples to batches of tokens."""
