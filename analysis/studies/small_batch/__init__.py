"""The small-batch page: Tables J1 and J2 and Figures J1 to J4 of the paper's appendix H, from measurement.

The paper's own J tables halve exactly from row to row and look interpolated. Its numbers stand beside ours,
which may disagree.
"""
