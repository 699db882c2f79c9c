"""One short script per study; what they share is in `sweeps.command`."""
