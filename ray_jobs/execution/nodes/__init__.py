"""Nodes before they get work: what their workers must be, and what a trial takes there."""
