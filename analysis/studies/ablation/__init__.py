"""The ablation's page.

One-sided against two-sided first, then every switch alone, then the paper's claims.
"""
