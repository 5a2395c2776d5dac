"""Whether values can be a chest CT in Hounsfield units at all; the first gate after reading."""

import numpy as np

from edm3d.data.geometry import Volume
from edm3d.errors import InputError


def check_hu(volume: Volume, name: str) -> None:
    """Raises `InputError` unless the values look like a chest CT in Hounsfield units."""
    values = volume.values
    if values.ndim != 3:
        raise InputError(f"{name} has shape {values.shape}; give one 3-D volume")
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(f"{name} holds NaN or infinity in {bad} voxels; give finite HU")
    low, high = float(values.min()), float(values.max())
    _check_range(name, low, high)
    airy = float(np.mean(values < -300.0))
    if airy < 0.002:
        raise InputError(
            f"{name} has {100 * airy:.2f} % of its voxels below -300 HU; a chest CT holds air and "
            "lung: check the rescale intercept"
        )


def _check_range(name: str, low: float, high: float) -> None:
    shown = f"values of {name} run from {low:g} to {high:g}"
    if low >= 0 and high <= 255:
        raise InputError(f"{shown}, an 8-bit picture; give Hounsfield units (air near -1000)")
    if low > -200:
        raise InputError(
            f"{shown}, without air; give Hounsfield units (is the rescale intercept -1024 missing?)"
        )
    if high < -500:
        raise InputError(f"{shown}, without tissue; give Hounsfield units (soft tissue near 0..80)")
    if low < -32768 or high > 32767:
        raise InputError(f"{shown}; Hounsfield units fit 16 bits: check slope and intercept")
