"""Structural similarity (SSIM) in three dimensions, as a mean inside masks.

Shape key: images and masks `[z, y, x]`. Degenerate input: the rule of the package; an empty mask
has a similarity of NaN.

Gaussian weights of SD 1.5 voxels in an 11³ window, 1/n covariances, K = 0.01 and 0.03: the choice
of the paper and of scikit-image's `gaussian_weights=True, use_sample_covariance=False`. The data
range is the width of the window that the values are clipped to. The mean over a whole volume is
mostly air and table; hence the masks.

References:
  Wang et al. 2004, IEEE Trans Image Process 13:600.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from edm3d.metrics.image import FULL_WINDOW_HU

SIGMA_VOXELS = 1.5
RADIUS_VOXELS = 5
K1, K2 = 0.01, 0.03
SLAB = 16  # slices at a time: 136 x 136 x 150 voxels need 50 MB, not 200


@dataclass(frozen=True)
class Similarity:
    """Mean SSIM over `voxels` voxels of values clipped to `low_hu`...`high_hu`; NaN over none."""

    voxels: int
    ssim: float
    low_hu: float
    high_hu: float


def similarity(
    measured: np.ndarray,
    reference: np.ndarray,
    masks: Mapping[str, np.ndarray],
    *,
    window_hu: tuple[float, float] = FULL_WINDOW_HU,
) -> dict[str, Similarity]:
    """Mean SSIM of `measured` and `reference` in each of `masks`, one pass for all of them.

    The window of a voxel at a mask's rim reaches beyond the mask, so NaN or infinity anywhere
    raises `ValueError`.
    """
    _check(measured, reference, masks, window_hu)
    sums, voxels = dict.fromkeys(masks, 0.0), dict.fromkeys(masks, 0)
    for z, ssim in _slabs(measured, reference, _box(masks), window_hu):
        for name, mask in masks.items():
            inside = mask[z] != 0
            sums[name] += float(ssim[inside].sum())
            voxels[name] += int(inside.sum())
    return {
        name: Similarity(n, sums[name] / n if n else float("nan"), *map(float, window_hu))
        for name, n in voxels.items()
    }


def _slabs(
    measured: np.ndarray,
    reference: np.ndarray,
    box: tuple[slice, slice, slice],
    window_hu: tuple[float, float],
) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
    """(place, SSIM there) of slabs that together fill `box`."""
    for first in range(box[0].start, box[0].stop, SLAB):
        place = (slice(first, min(first + SLAB, box[0].stop)), *box[1:])
        reach = tuple(
            slice(max(s.start - RADIUS_VOXELS, 0), min(s.stop + RADIUS_VOXELS, n))
            for s, n in zip(place, measured.shape, strict=True)
        )
        x, y = (a[reach].astype(np.float64).clip(*window_hu) for a in (measured, reference))
        kept = tuple(
            slice(s.start - r.start, s.stop - r.start) for s, r in zip(place, reach, strict=True)
        )
        yield place, _ssim(x, y, window_hu[1] - window_hu[0])[kept]


def _ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> np.ndarray:
    """SSIM of every voxel (Wang et al. 2004, equation 13)."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mx, my = _blur(x), _blur(y)
    product, squares = mx * my, mx * mx + my * my
    covariance = _blur(x * y) - product
    variances = _blur(x * x + y * y) - squares
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _blur(a: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(a, SIGMA_VOXELS, mode="reflect", radius=RADIUS_VOXELS)


def _box(masks: Mapping[str, np.ndarray]) -> tuple[slice, slice, slice]:
    """The smallest box that holds every mask; an empty one where all are empty."""
    union = np.logical_or.reduce([mask != 0 for mask in masks.values()])
    found = ndimage.find_objects(union.astype(np.uint8))
    return found[0] if found else (slice(0, 0), slice(0, 0), slice(0, 0))


def _check(
    measured: np.ndarray,
    reference: np.ndarray,
    masks: Mapping[str, np.ndarray],
    window_hu: tuple[float, float],
) -> None:
    shapes = [a.shape for a in (measured, reference, *masks.values())]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3:
        raise ValueError(f"images and masks differ in shape or are not [z, y, x]: {shapes}")
    if not masks:
        raise ValueError("no mask is given; name at least one")
    if not window_hu[0] < window_hu[1]:
        raise ValueError(f"window_hu is {window_hu}; its first end must be the lower")
    if not (np.isfinite(measured).all() and np.isfinite(reference).all()):
        raise ValueError("the images hold NaN or infinity")
