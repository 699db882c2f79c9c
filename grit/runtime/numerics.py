"""Which arithmetic a run uses, beyond the types of its tensors: set when it starts, and recorded."""

from __future__ import annotations

import os

import torch

#: What cuBLAS needs to repeat itself; it reads it once, when CUDA starts.
_CUBLAS_VARIABLE, _CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


def set_numerics(*, deterministic: bool, tf32: bool) -> None:
    """For the whole process, until the next run sets its own.

    Args:
        deterministic: only kernels that repeat themselves; an operation that has none raises RuntimeError.
        tf32: whether float32 products on a GPU round their factors to 10 bits. CPUs know no such thing.

    Raises:
        RuntimeError: cuBLAS has started without what repeating itself needs.
    """
    if deterministic and _CUBLAS_VARIABLE not in os.environ:
        if torch.cuda.is_initialized():
            raise RuntimeError(
                f"deterministic: CUDA has started without {_CUBLAS_VARIABLE}={_CUBLAS_WORKSPACE} in the "
                "environment; set it for the whole process"
            )
        os.environ[_CUBLAS_VARIABLE] = _CUBLAS_WORKSPACE
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.fp32_precision = "tf32" if tf32 else "ieee"  # type: ignore[attr-defined]  # set by torch at import


def numerics() -> dict[str, bool]:
    """What is in force, read back from torch."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
    }
