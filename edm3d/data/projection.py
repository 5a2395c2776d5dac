"""X-rays computed from a CT: parallel-beam line integrals, and the unit they are compared in.

The posterior-anterior (PA) image runs its rays along y, the lateral one (LAT) along x. In the PA
image columns run from the subject's right to its left, so a heart on the left lies at image right.
Read next: `edm3d.diffusion.conditioning` (back-projection on the device).
"""

import numpy as np

MU_WATER_PER_MM = 0.0206  # water at 60 keV, the mean energy of a bedside chest film (NIST)


def line_integrals(
    volume_hu: np.ndarray, *, spacing_mm: float, mu_water_per_mm: float = MU_WATER_PER_MM
) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation summed along parallel rays, dimensionless float32: PA `[z, x]`, LAT `[z, y]`.

    mu = mu_water (1 + HU / 1000), never below 0. `volume_hu` is `[z, y, x]`, isotropic. The sums of
    whole HU are exact, so PA and LAT hold the same total.
    """
    dense_hu = np.maximum(volume_hu, -1000)
    _, ny, nx = volume_hu.shape
    scale = mu_water_per_mm * spacing_mm / 1000.0
    pa = (dense_hu.sum(axis=1, dtype=np.float64) + 1000.0 * ny) * scale
    lat = (dense_hu.sum(axis=2, dtype=np.float64) + 1000.0 * nx) * scale
    return pa.astype(np.float32), lat.astype(np.float32)


def mean_unit_attenuation(
    image: np.ndarray, *, path_mm: float, mu_water_per_mm: float, scale_hu: float = 1024.0
) -> np.ndarray:
    """Line integrals as the mean CT value on their ray, in unit CT (HU / `scale_hu`), float32.

    `path_mm` is the volume's extent along the ray: a fixed length, so that the total gas content
    survives. A ray through vacuum gives -1000 / `scale_hu`.
    """
    mean_hu = (image / (path_mm * mu_water_per_mm) - 1.0) * 1000.0
    return (mean_hu / scale_hu).astype(np.float32)
