"""Accelerators that plans are made for, and how long a step takes on some of them.

Sources of the figures: data sheets of NVIDIA A100, H100 and H200 (dense bf16, SXM; NVLink one way;
a network card of 200 or 400 Gb/s a GPU between hosts of eight) and, for TPUs, Google Cloud's pages
of each version with the links of "How to Scale Your Model" (two directions of one ring).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """One device, and the links that a ring of several goes through.

    Attributes:
        memory_gb: 1e9 bytes.
        peak_tflops: dense bf16 matrix products, 1e12 FLOP/s.
        link_gb_s: what a device sends to its neighbour in a host or pod, 1e9 bytes/s.
        near: devices that are joined so.
        far_gb_s: the same between hosts.
    """

    memory_gb: float
    peak_tflops: float
    link_gb_s: float
    near: int
    far_gb_s: float

    def ring_gb_s(self, devices: int) -> float:
        """The slowest link of a ring of `devices`."""
        return self.link_gb_s if devices <= self.near else min(self.link_gb_s, self.far_gb_s)


ACCELERATORS = {
    "a100-40": Accelerator(40, 312, 300, 8, 25),
    "a100-80": Accelerator(80, 312, 300, 8, 25),
    "h100": Accelerator(80, 989, 450, 8, 50),
    "h200": Accelerator(141, 989, 450, 8, 50),
    "tpu-v4": Accelerator(32, 275, 90, 4096, 90),
    "tpu-v5e": Accelerator(16, 197, 90, 256, 90),
    "tpu-v5p": Accelerator(95, 459, 180, 8960, 180),
    "tpu-v6e": Accelerator(32, 918, 180, 256, 180),
}


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: computing and, one after the other or at once, sending."""

    compute_s: float
    send_s: float

    @property
    def apart_s(self) -> float:
        return self.compute_s + self.send_s

    @property
    def together_s(self) -> float:
        return max(self.compute_s, self.send_s)


def step_time(
    accelerator: Accelerator,
    *,
    devices: int,
    utilisation: float,
    device_flops: float,
    gradient_bytes: float,
    space: int = 1,
    halo_bytes: float = 0.0,
) -> StepTime:
    """A step in which each device does `device_flops` and one gradient is summed over a ring.

    A ring all-reduce sends 2 (n - 1) / n of the gradient from each device, sharded parameters the
    same in two parts; halos go between the `space` devices of a patch, which are neighbours.
    Latencies are not counted.
    """
    reduced = 2 * (devices - 1) / devices * gradient_bytes / accelerator.ring_gb_s(devices)
    halos = halo_bytes / accelerator.ring_gb_s(space) if space > 1 else 0.0
    rate = 1e12 * accelerator.peak_tflops * utilisation
    return StepTime(device_flops / rate, (reduced + halos) / 1e9)
