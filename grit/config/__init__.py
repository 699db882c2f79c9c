"""What was asked for, as data: the method's switches, one run, the declarations of all methods.

Imports no torch.
"""
