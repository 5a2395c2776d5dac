"""What a row of measurements tells beside losses: rates, utilisation, waiting, memory."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

BACKWARD_AND_FORWARD = 3.0  # a training patch costs three forward passes
# Dense bfloat16 peaks from the makers' data sheets, in TFLOP/s of what JAX calls a device.
PEAK_TFLOPS = {
    "NVIDIA A100": 312.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H200": 989.0,
    "NVIDIA B200": 2250.0,
    "Tesla V100": 125.0,
    "TPU v3": 61.5,  # a core: half a chip
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}


def peak_flops(device_kind: str, stated_tflops: float = 0.0) -> float | None:
    """FLOP/s that a device could make at most: as stated, else known by its kind, else None."""
    if stated_tflops:
        return stated_tflops * 1e12
    fitting = [name for name in PEAK_TFLOPS if device_kind.startswith(name)]
    return PEAK_TFLOPS[max(fitting, key=len)] * 1e12 if fitting else None


@dataclass
class Gauges:
    """Reads what surrounds the steps of a run.

    Attributes:
        learning_rate, ema_half_life: of an update by its number, the first being 0.
        forward_flops: of one patch, the mean over their sizes.
        peak: FLOP/s of all devices together, None where unknown.
    """

    learning_rate: Callable[[int], Any]
    ema_half_life: Callable[[int], Any]
    forward_flops: float
    peak: float | None
    _waited_s: float = field(default=0.0, init=False)
    _read_at: float = field(default_factory=time.perf_counter, init=False)

    def read(self, step: int, patches_per_s: float, waited_s: float) -> dict[str, float | None]:
        """Named numbers after `step` updates.

        `waited_s` is the time spent without a batch at hand since the start of the run. Devices
        stand idle for less than that: steps sent ahead still run.
        """
        now, flops = time.perf_counter(), BACKWARD_AND_FORWARD * self.forward_flops
        seconds, waited = now - self._read_at, waited_s - self._waited_s
        self._read_at, self._waited_s = now, waited_s
        rate = float(self.learning_rate(step - 1))
        return {
            "learning_rate": rate if math.isfinite(rate) else None,
            "ema_half_life_samples": float(self.ema_half_life(step - 1)),
            "model_flop_utilisation": flops * patches_per_s / self.peak if self.peak else None,
            "input_wait_share": waited / seconds,
            **peak_memory_gb(),
        }


def peak_memory_gb() -> dict[str, float | None]:
    """The most that this process and the fullest of its devices held; None where none tells."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return {
        "device_memory_gb": max(peaks) / 1e9 if peaks else None,
        "host_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }
