"""The compression page: train at k, or train at r and keep k directions, at equal exported parameters.

Every way has the same grid of learning rates; a rate is chosen on the even half of the evaluation examples
and judged on the odd half.
"""
