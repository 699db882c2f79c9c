"""The runtime audit's page (paper appendix F), with the paper's Tables 8.

14 and 15 beside what was measured here.
"""
