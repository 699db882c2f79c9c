"""The embedded backbone, the invented world it was trained on.

And the script that builds it (`python -m grit.backbone build`).
"""

from grit.backbone.model import EMBEDDED, WEIGHTS, resolve

__all__ = ["EMBEDDED", "WEIGHTS", "resolve"]
