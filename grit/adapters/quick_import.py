"""Imports torch, transformers, bitsandbytes and peft in two thirds of their time; to be imported before peft.

Every worker begins with them.
"""

from __future__ import annotations

import gc


def import_libraries() -> None:
    """Imports them without what their import costs for nothing.

    Nothing that is made while they are imported becomes garbage, yet collecting it costs a fifth of the
    time. Four fallback kernels of bitsandbytes are decorated with `torch.compile`, which alone loads all of
    Inductor, another fifth: meanwhile it means "eager", so that whoever calls one gets what is written there.
    (NF4 needs none of the four, but for weights of an odd width on a CPU.) Both are put back: what users
    compile themselves is not touched.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        _import_with("eager")
    finally:
        if collected:
            gc.freeze()
            gc.unfreeze()  # as old objects, which the next collection does not walk through
            gc.enable()


def _import_with(backend: str) -> None:
    """Imports them while this is what `torch.compile` means."""
    import torch

    usual = torch.compiler.get_default_backend()
    torch.compiler.set_default_backend(backend)
    try:
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
    finally:
        torch.compiler.set_default_backend(usual)


import_libraries()
