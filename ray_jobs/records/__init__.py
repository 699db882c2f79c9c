"""What a study leaves on disk, and how it is read back. Needs neither Ray nor torch."""
