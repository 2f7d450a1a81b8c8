"""What the machine does while a training runs, under the names that MLflow's page of system metrics shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

EVERY_SECONDS = 10.0
"""Between two samples."""


@dataclass(frozen=True)
class Sample:
    """Metrics of one moment."""

    at: float
    """Seconds since 1970."""
    values: Mapping[str, float]
    """`system/...`: percent, megabytes, watts."""


class Machine:
    """Samples processors, memory, disk, and NVIDIA's GPUs where there are any, with MLflow's own monitors.

    MLflow's SystemMetricsMonitor would do the rest, but ends for good when its server is away once.
    """

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        self.monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor()]
        with suppress(Exception):  # whatever it says about a machine without a GPU
            self.monitors.append(GPUMonitor())
        self.sample()  # a processor's load is that since the sample before
        self._last = time.monotonic()

    def sample(self) -> Sample:
        """What it does now; the processors, since the last time."""
        values: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return Sample(time.time(), values)

    def due(self) -> bool:
        """Whether the last sample is old enough; asking takes note of it."""
        now = time.monotonic()
        if now - self._last < EVERY_SECONDS:
            return False
        self._last = now
        return True
