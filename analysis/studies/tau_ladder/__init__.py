"""Thresholds read off one training: the end of a run at a ladder of tau, beside runs trained with each."""
