"""Voxel errors of one image against another, in the whole volume or inside a mask.

Raises `ValueError` on unequal shapes, an empty region, NaN or infinity.
"""

from dataclasses import dataclass

import numpy as np

FULL_RANGE_HU = 4095.0  # 12 bit of CT, -1024..3071


@dataclass(frozen=True)
class ImageError:
    """Errors over `voxels` voxels; `psnr_db` holds for `data_range`, infinite at no error."""

    voxels: int
    mae: float
    rmse: float
    psnr_db: float
    data_range: float


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
    error = _error(measured, reference, mask)
    rmse = float(np.sqrt(np.mean(error**2)))
    return ImageError(
        voxels=error.size,
        mae=float(np.abs(error).mean()),
        rmse=rmse,
        psnr_db=psnr_db(rmse, data_range=data_range),
        data_range=float(data_range),
    )


def psnr_db(rmse: float, *, data_range: float) -> float:
    """Peak signal to noise ratio in dB of an error `rmse` for the stated range."""
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; it must be positive")
    return float("inf") if rmse == 0 else float(20 * np.log10(data_range / rmse))


def _error(measured: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if measured.shape != reference.shape or (mask is not None and mask.shape != measured.shape):
        shapes = [a.shape for a in (measured, reference, mask) if a is not None]
        raise ValueError(f"images and mask differ in shape: {shapes}")
    inside = ... if mask is None else mask != 0
    error = np.asarray(measured[inside], np.float64) - np.asarray(reference[inside], np.float64)
    if error.size == 0:
        raise ValueError("the region is empty")
    if not np.isfinite(error).all():
        raise ValueError("the images hold NaN or infinity inside the region")
    return error
