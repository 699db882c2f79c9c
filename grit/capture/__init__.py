"""What hooks see of a training step, which positions of it count, and the checks that it is all true."""
