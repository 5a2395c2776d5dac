"""Voxel errors of one image against another, in the whole volume or inside a mask.

Degenerate input: the rule of the package; also `ValueError` on an empty region. Errors in the body
hardly move, for most of it does not change; read those in the lung. `similarity` holds SSIM.
"""

from dataclasses import dataclass

import numpy as np

FULL_RANGE_HU = 4095.0  # 12 bit of CT, -1024..3071
FULL_WINDOW_HU = (-1024.0, 3071.0)
LUNG_WINDOW_HU = (-1200.0, 200.0)  # level -500, width 1400


@dataclass(frozen=True)
class ImageError:
    """Errors over `voxels` voxels; `psnr_db` holds for `data_range`, infinite at no error."""

    voxels: int
    mae: float
    rmse: float
    psnr_db: float
    data_range: float


@dataclass(frozen=True)
class WindowedError:
    """Errors of values clipped to `low_hu`...`high_hu`, whose width is the data range."""

    low_hu: float
    high_hu: float
    error: ImageError


def image_error(
    measured: np.ndarray,
    reference: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    data_range: float = FULL_RANGE_HU,
) -> ImageError:
    """MAE, RMSE and PSNR = 20 log10(data_range / RMSE) of `measured` against `reference`.

    Arrays of one shape; `mask` of that shape restricts the errors to its non-zero voxels.
    """
    values, others = _inside(measured, reference, mask)
    return _summary(values - others, data_range)


def windowed_error(
    measured: np.ndarray,
    reference: np.ndarray,
    window_hu: tuple[float, float],
    *,
    mask: np.ndarray | None = None,
) -> WindowedError:
    """The errors of `image_error` after both images are clipped to `window_hu`."""
    low, high = window_hu
    values, others = _inside(measured, reference, mask)
    error = values.clip(low, high) - others.clip(low, high)
    return WindowedError(float(low), float(high), _summary(error, high - low))


def psnr_db(rmse: float, *, data_range: float) -> float:
    """Peak signal to noise ratio in dB of an error `rmse` for the stated range."""
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; it must be positive")
    return float("inf") if rmse == 0 else float(20 * np.log10(data_range / rmse))


def _summary(error: np.ndarray, data_range: float) -> ImageError:
    rmse = float(np.sqrt(np.mean(error**2)))
    return ImageError(
        voxels=error.size,
        mae=float(np.abs(error).mean()),
        rmse=rmse,
        psnr_db=psnr_db(rmse, data_range=data_range),
        data_range=float(data_range),
    )


def _inside(
    measured: np.ndarray, reference: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both images' values in the region, as float64 `[n]`."""
    if measured.shape != reference.shape or (mask is not None and mask.shape != measured.shape):
        shapes = [a.shape for a in (measured, reference, mask) if a is not None]
        raise ValueError(f"images and mask differ in shape: {shapes}")
    region = ... if mask is None else mask != 0
    values, others = (np.asarray(a[region], np.float64) for a in (measured, reference))
    if values.size == 0:
        raise ValueError("the region is empty")
    if not (np.isfinite(values).all() and np.isfinite(others).all()):
        raise ValueError("the images hold NaN or infinity inside the region")
    return values, others
