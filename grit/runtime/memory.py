"""Memory that a process holds: resident on a CPU, allocated on a GPU."""

from __future__ import annotations

import resource
from pathlib import Path

import torch


class MemoryPeak:
    """Peak memory in bytes over a run's training steps (evaluation apart).

    On a GPU: what the allocator held on the device. On a CPU: the process's resident size, which in a worker
    that has run other trials
    holds their freed memory too; compare it only between runs in fresh processes.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self.bytes = 0

    def begin_step(self) -> None:
        """Starts to watch."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    def end_step(self) -> None:
        """Takes the step's peak."""
        self.bytes = max(self.bytes, torch.cuda.max_memory_allocated() if self._cuda else resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
