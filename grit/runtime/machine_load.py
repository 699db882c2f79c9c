"""How busy the machine is that a process computes on, and its GPU; named as MLflow's own monitors name it."""

from __future__ import annotations

import time
from typing import Any

import psutil  # type: ignore[import-untyped]  # without stubs

from grit.runtime.nvml import device_handle, load_of

#: Seconds between readings.
READING_SECONDS = 10.0


class MachineLoad:
    """Read now and then, by whoever trains there.

    Args:
        device: that it computes on, "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self._gpu: Any = device_handle() if device == "cuda" else None
        self._next = time.monotonic()  # the first reading is since the process began
        psutil.cpu_percent()

    def reading(self) -> dict[str, float] | None:
        """Percent of processors and memory, and what the GPU's driver tells; None where none is due."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + READING_SECONDS
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        if self._gpu is not None:
            values |= {f"gpu_{name}": value for name, value in load_of(self._gpu).items()}
        return values
