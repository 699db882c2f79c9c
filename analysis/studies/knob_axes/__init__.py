"""What a study says of whole knobs: whether tau must be trained in, which knob moves which objective."""
