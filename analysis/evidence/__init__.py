"""Records as arrays: loading, settings over seeds, fronts, where time went."""
