"""What NVIDIA's driver says of the GPU that this process computes on. The only importer of NVML."""

from __future__ import annotations

import contextlib
from typing import Any


def device_handle() -> Any:
    """NVML's handle of torch's current device; None where the driver does not answer."""
    import pynvml
    import torch

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    return None


def joules_of(handle: Any) -> float | None:
    """Energy since the driver was loaded; None where it counts none."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    return None


def load_of(handle: Any) -> dict[str, float]:
    """Utilization and memory in percent, power in watts: those that the driver tells."""
    import pynvml

    values: dict[str, float] = {}
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        values["memory_usage_percentage"] = 100 * memory.used / memory.total
        values["utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        values["power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
    return values
