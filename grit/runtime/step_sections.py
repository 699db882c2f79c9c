"""The components of an optimizer step's time, by name (paper appendix F). Imports no torch."""

from __future__ import annotations

#: The components of t_step, in the order in which tables show them.
SECTIONS = ("forward", "backward", "optimizer", "fisher", "reprojection", "rank", "misc")


#: Those that GRIT adds to a LoRA step.
GEOMETRY_SECTIONS = ("fisher", "reprojection", "rank")
