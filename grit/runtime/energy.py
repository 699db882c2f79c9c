"""Energy that a process takes: read from the GPU where there is one, estimated from processor time elsewhere.

Imports torch where there is a GPU alone: reports read the constants.
"""

from __future__ import annotations

import time

from grit.runtime.nvml import device_handle, joules_of

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
        handle = device_handle() if device == "cuda" else None
        self._gpu = None if handle is None or joules_of(handle) is None else handle
        self.source = ESTIMATED if self._gpu is None else READ
        self._latest = 0.0
        self._processor, self._counter = time.process_time(), self._gpu_joules()

    def _gpu_joules(self) -> float:
        """Since the driver was loaded; the last answer where it gives none."""
        answer = None if self._gpu is None else joules_of(self._gpu)
        self._latest = self._latest if answer is None else answer
        return self._latest

    def joules(self) -> float:
        """What was taken so far."""
        cores = WATTS_PER_CORE * (time.process_time() - self._processor)
        return cores + self._gpu_joules() - self._counter
