"""GRIT inside other people's training loops."""
