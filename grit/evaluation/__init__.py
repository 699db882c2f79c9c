"""Scores of a model on fixed examples: likelihoods, generated answers, metrics, probes."""
