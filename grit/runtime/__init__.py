"""What every run stands on: clocks, workers, checkpoints, memory. Knows nothing of the method."""
