"""What the study scripts share.

Options, the way from a command line to a finished study, series of studies.
"""
