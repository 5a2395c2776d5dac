"""What the scanner adds: point spread, calibration error, quantum noise, rounding and clipping."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .lattice import Lattice
from .noise import quantum_noise

HU_MIN, HU_MAX = -1024, 3071
PSF_SIGMA_MM = 0.7  # the atlas' own blur adds about as much
WATER_SD_HU, AIR_SD_HU = 2.0, 1.5  # between scans, inside the usual tolerance of a calibration
_FURTHEST_SD = 2.0  # water within 4 HU, air within 3


@dataclass(frozen=True)
class Calibration:
    """How far a scanner reads water and air off 0 and -1000 HU; linear in between and beyond."""

    water_hu: float = 0.0
    air_hu: float = 0.0

    def read(self, hu: np.ndarray) -> np.ndarray:
        """What the scanner reads where `hu` is true."""
        gain = 1 + (self.water_hu - self.air_hu) / 1000
        return np.float32(gain) * hu + np.float32(self.water_hu)


EXACT = Calibration()


def drifted(rng: np.random.Generator) -> Calibration:
    """The calibration of one scan."""
    water, air = np.clip(rng.standard_normal(2), -_FURTHEST_SD, _FURTHEST_SD)
    return Calibration(WATER_SD_HU * float(water), AIR_SD_HU * float(air))


def acquire(
    hu: np.ndarray,
    lattice: Lattice,
    rng: np.random.Generator | None,
    *,
    dose: float = 1.0,
    calibration: Calibration = EXACT,
) -> np.ndarray:
    """int16 HU `[z, y, x]` as a scanner would give it; without `rng` there is no noise."""
    seen = ndimage.gaussian_filter(hu, [PSF_SIGMA_MM / s for s in lattice.spacing_zyx_mm])
    if rng is not None:
        seen += quantum_noise(hu, lattice, rng, dose=dose)
    if calibration != EXACT:
        seen = calibration.read(seen)
    return np.clip(np.rint(seen), HU_MIN, HU_MAX).astype(np.int16)
