"""The embedded backbone: a small Llama and its tokenizer, committed beside this file."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"

#: The name by which command lines ask for the embedded backbone.
EMBEDDED = "embedded"


def resolve(model: str) -> str:
    """A model id or path as `from_pretrained` takes it.

    `embedded` is the backbone that ships with this package.
    """
    return str(WEIGHTS) if model == EMBEDDED else model
