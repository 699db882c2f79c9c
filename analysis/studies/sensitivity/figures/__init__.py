"""The figures of the sensitivity study (paper H.6): each computed into an object of numbers, then drawn.

Each stands alone.
"""
