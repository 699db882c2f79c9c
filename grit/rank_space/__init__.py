"""Pure maths on stacks of r x r matrices: moments, damped inverses, projectors, ranks. No state, no hooks."""
