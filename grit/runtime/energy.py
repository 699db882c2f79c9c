"""Energy that a process takes: read from the GPU where there is one, estimated from processor time elsewhere.

The only importer of NVML. Imports torch where there is a GPU alone: reports read the constants.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

#: What a busy core is taken to draw, in watts, with its share of the machine: some 200 W for 24 cores of
#: a server, and a little for memory. A stated assumption, not a reading.
WATTS_PER_CORE = 10.0
JOULES_PER_KWH = 3.6e6
#: Of one kWh of electricity, in grams of CO2 equivalents: the world's mean of 2023 (Ember, 2024).
GRAMS_PER_KWH = 480.0
#: Where a number comes from, as records have it.
READ, ESTIMATED = "NVML", f"estimate: {WATTS_PER_CORE:g} W per busy core"


class EnergyMeter:
    """Joules since it was made: of this process's cores, and of the whole GPU that it computes on.

    Attributes:
        source: where the number comes from. On a GPU whose driver counts no energy, the cores alone are
            counted, and it is called an estimate.
    """

    def __init__(self, device: str) -> None:
        self._gpu = _gpu() if device == "cuda" else None
        self.source = ESTIMATED if self._gpu is None else READ
        self._processor, self._counter = time.process_time(), self._gpu_joules()

    def _gpu_joules(self) -> float:
        if self._gpu is None:
            return 0.0
        import pynvml

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)) / 1e3

    def joules(self) -> float:
        """What was taken so far."""
        cores = WATTS_PER_CORE * (time.process_time() - self._processor)
        return cores + self._gpu_joules() - self._counter


def _gpu() -> Any:
    """NVML's handle of the device that torch computes on; None where its driver counts no energy."""
    import pynvml
    import torch

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return handle
    return None
