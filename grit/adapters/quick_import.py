"""Imports torch, transformers, bitsandbytes and peft in two thirds of their time; to be imported before peft.

Every worker begins with them.
"""

from __future__ import annotations

import gc


def import_libraries() -> None:
    """Imports them without what their import costs for nothing.

    Nothing that is made while they are imported becomes garbage, yet collecting it costs a fifth of the
    time. Four fallback kernels of bitsandbytes are decorated with `torch.compile`, which alone loads all of
    Inductor, another fifth: meanwhile it means "eager". NF4 uses none of the four, neither on a CPU nor on a
    GPU, and whoever calls one runs it as it is written. Both are put back: what users compile themselves is
    not touched.
    """
    collected = gc.isenabled()
    gc.disable()
    import torch

    backend = torch.compiler.get_default_backend()
    torch.compiler.set_default_backend("eager")
    try:
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
    finally:
        torch.compiler.set_default_backend(backend)
        if collected:
            gc.freeze()
            gc.unfreeze()  # as old objects, which the next collection does not walk through
            gc.enable()


import_libraries()
