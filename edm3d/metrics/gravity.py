"""Density of the lung along gravity: what supine and prone do to dependent lung.

Shape key: `volume_hu [z, y, x]` and `mask` in LPS (y grows to the back), `levels` slabs from the
non-dependent to the dependent side. Degenerate input: the rule of the package.

In a healthy lung density rises along gravity in either position, so the slope is positive supine
and prone. A consolidation that stays in the back keeps its place when the animal is turned: it
raises the slope supine and lowers it prone.
"""

from dataclasses import dataclass

import numpy as np

from edm3d.metrics.aeration import voxel_ml


@dataclass(frozen=True)
class GravityProfile:
    """Lung by level, first the non-dependent; each array `[levels]`.

    `depth_mm` is the middle of a level below the uppermost lung. A level without lung has 0 ml and
    NaN elsewhere. `slope_hu_per_cm` is the least-squares slope of all voxels, NaN in a lung of one
    layer.
    """

    depth_mm: np.ndarray
    volume_ml: np.ndarray
    mean_hu: np.ndarray
    density_g_per_ml: np.ndarray
    slope_hu_per_cm: float


def gravity_profile(
    volume_hu: np.ndarray,
    mask: np.ndarray,
    spacing_zyx_mm: tuple[float, float, float],
    *,
    prone: bool,
    levels: int = 10,
) -> GravityProfile:
    """Mean density in `levels` slabs of equal height between the lung's highest and lowest voxel.

    Gravity points to the back, or to the front where the animal lies `prone`. A layer of voxels
    belongs to the slab that holds its centre, at a border to the deeper one. Raises `ValueError`
    where the lung has fewer layers than `levels`.
    """
    count, total = _by_layer(volume_hu, mask, prone=prone)
    if not 1 <= levels <= count.size:
        raise ValueError(f"levels is {levels}; the lung has {count.size} layers along gravity")
    slab = (2 * np.arange(count.size) + 1) * levels // (2 * count.size)
    voxels, sums = (np.bincount(slab, a, minlength=levels) for a in (count, total))
    mean = np.divide(sums, voxels, out=np.full(levels, np.nan), where=voxels > 0)
    height = count.size * spacing_zyx_mm[1]
    return GravityProfile(
        depth_mm=(np.arange(levels) + 0.5) * height / levels,
        volume_ml=voxels * voxel_ml(spacing_zyx_mm),
        mean_hu=mean,
        density_g_per_ml=1 + mean / 1000,
        slope_hu_per_cm=_slope(count, total) / (spacing_zyx_mm[1] / 10),
    )


def _by_layer(
    volume_hu: np.ndarray, mask: np.ndarray, *, prone: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and their summed HU in each layer along gravity, from the first with lung."""
    if volume_hu.shape != mask.shape or mask.ndim != 3:
        raise ValueError(f"CT has shape {volume_hu.shape}, mask {mask.shape}; need one [z, y, x]")
    inside = mask != 0
    count = inside.sum((0, 2))
    total = np.where(inside, volume_hu, 0).sum((0, 2), dtype=np.float64)
    if not count.any():
        raise ValueError("the lung mask is empty")
    if not np.isfinite(total).all():
        raise ValueError("the CT holds NaN or infinity inside the lung")
    filled = np.flatnonzero(count)
    extent = slice(filled[0], filled[-1] + 1)
    downwards = slice(None, None, -1 if prone else 1)
    return count[extent][downwards], total[extent][downwards]


def _slope(count: np.ndarray, total: np.ndarray) -> float:
    """Least-squares slope of HU on the layer's number, every voxel with the same weight."""
    layer = np.arange(count.size)
    d = layer - np.average(layer, weights=count)
    squares = float(count @ d**2)
    return float(d @ total) / squares if squares else float("nan")
