"""Mirrors of the records for people to look at."""
