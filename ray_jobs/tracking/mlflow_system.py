"""How busy the driver's machine is: MLflow's own monitors, read by our writer."""

from __future__ import annotations

import time
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

from ray_jobs.tracking.run_contents import MetricPoint


class SystemMonitor:
    """Processor, memory and, where NVML finds one, the GPUs."""

    def __init__(self) -> None:
        self._monitors: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]
        self._readings = 0
        try:
            from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

            self._monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
        except (ImportError, RuntimeError):
            pass  # no NVML here, or no GPU: the metrics are absent, as MLflow's own are

    def reading(self) -> list[MetricPoint]:
        """What the monitors say now, under MLflow's own names."""
        self._readings += 1
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        at = int(1000 * time.time())
        return [
            MetricPoint(f"system/{name}", float(value), at, self._readings) for name, value in values.items()
        ]
