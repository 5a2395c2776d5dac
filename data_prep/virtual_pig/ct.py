"""What the scanner adds: point spread, noise with an in-plane texture, rounding and clipping."""

import numpy as np
from scipy import ndimage

from .lattice import Lattice

HU_MIN, HU_MAX = -1024, 3071
PSF_SIGMA_MM = 0.7  # the atlas' own blur adds about as much
NOISE_HU_AT_2MM = 18.0  # standard deviation in an 8 mm^3 voxel


def acquire(
    hu: np.ndarray, lattice: Lattice, rng: np.random.Generator | None, noise: float = 1.0
) -> np.ndarray:
    """int16 HU `[z, y, x]` as a scanner would give it; without `rng` there is no noise."""
    seen = ndimage.gaussian_filter(hu, [PSF_SIGMA_MM / s for s in lattice.spacing_zyx_mm])
    if rng is not None:
        seen = seen + noise * noise_hu(seen, lattice, rng)
    return np.clip(np.rint(seen), HU_MIN, HU_MAX).astype(np.int16)


def noise_hu(hu: np.ndarray, lattice: Lattice, rng: np.random.Generator) -> np.ndarray:
    """Noise `[z, y, x]` in HU: larger in thick slices of the body and towards its middle.

    White noise less its in-plane blur (the ramp filter's spectrum), slightly softened; its variance
    goes as 1 / voxel volume, that is, as 1 / photons.
    """
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    texture = white - 0.55 * ndimage.gaussian_filter(white, (0, 1.2, 1.2))
    texture = ndimage.gaussian_filter(texture, 0.45)
    thickness = np.clip(1 + hu / 1000, 0, 2.2).mean((1, 2), keepdims=True)
    level = NOISE_HU_AT_2MM * np.sqrt(8e-3 / lattice.voxel_ml)
    _, y, x = lattice.open_mesh()
    off_centre = np.clip(np.hypot(y, x) / (0.45 * np.ptp(x)), 0, 1.3)
    shape = np.sqrt(thickness / thickness.mean()) * (1.25 - 0.55 * off_centre)
    return (texture / texture.std()) * level * shape
