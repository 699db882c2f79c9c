"""Between gradients and weights: what bounds a step, in which basis it is taken, which are not taken."""
