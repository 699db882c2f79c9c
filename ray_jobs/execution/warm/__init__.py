"""Long-lived Ray Train workers that take trial after trial from a board."""
