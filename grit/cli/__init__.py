"""`python -m grit`, and the options that all command lines share."""
