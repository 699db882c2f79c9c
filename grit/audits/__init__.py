"""Measurements of a run beside its score: steadiness of factors, truncations, geometry of the update."""
