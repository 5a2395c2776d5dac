"""What lies below the diaphragm in the reference frame (HU): liver, spleen, bowel, fat, vessels.

The stomach is not here: its gas turns over with the animal, see `body`.
"""

import numpy as np

from .airways import paint_gastric_tube
from .chest import Chest
from .lattice import Points, coverage, paint, smooth_step
from .mediastinum import vessel_distance
from .shape import Pose, diaphragm_z

LIVER_HU, SPLEEN_HU, BILE_HU, BOWEL_HU = 60.0, 48.0, 8.0, 30.0
_FAT_HU, _GAS_HU, _MUSCLE_HU, _BLOOD_HU = -95.0, -990.0, 52.0, 42.0
_DIAPHRAGM_MM, _ABOVE_MM = 4.0, 4.0


def paint_abdomen(
    chest: Chest, at: Points, h: float, field: np.ndarray, hu: np.ndarray
) -> np.ndarray:
    """`hu` with the abdomen laid below the dome; `field` is a unit random field.

    Tissue continues some mm above the dome, so that the soft edge of the diaphragm sees it.
    """
    z, y, x = at
    below = diaphragm_z(Pose(chest, 0.0, False), y, x) - z
    belly = paint(_bowel(at, h, field), coverage(-liver_depth(chest, at), 3.0), LIVER_HU)
    belly = paint(belly, coverage(_spleen_distance(chest, at), h), SPLEEN_HU)
    belly = paint(belly, coverage(_gall_bladder_distance(chest, at), h), BILE_HU)
    belly = paint(belly, coverage(vessel_distance(chest, at), h), _BLOOD_HU)
    belly = paint_gastric_tube(chest, at, h, belly)
    belly = paint(belly, coverage(below - _DIAPHRAGM_MM, h), _MUSCLE_HU)
    return np.where(below > -_ABOVE_MM, belly, hu).astype(np.float32)


def liver_depth(chest: Chest, at: Points) -> np.ndarray:
    """Height above the liver's lower surface, mm: it reaches furthest down on the right."""
    z, y, x = at
    s = chest.scale
    return z + 62 * s - 0.40 * x - 0.15 * y + 5 * s * np.sin(x / (14 * s)) * np.cos(y / (22 * s))


def _spleen_distance(chest: Chest, at: Points) -> np.ndarray:
    z, y, x = at
    s = chest.scale
    turned = (x - 60 * s) + 0.15 * (y - 10 * s)
    k = np.sqrt((turned / 11) ** 2 + ((y - 8 * s) / 34) ** 2 + ((z + 88 * s) / 42) ** 2) / s
    return (k - 1) * 11 * s


def _gall_bladder_distance(chest: Chest, at: Points) -> np.ndarray:
    z, y, x = at
    s = chest.scale
    k = np.sqrt(((x + 24 * s) / 11) ** 2 + ((y + 30 * s) / 11) ** 2 + ((z + 66 * s) / 17) ** 2) / s
    return (k - 1) * 11 * s


def _bowel(at: Points, h: float, field: np.ndarray) -> np.ndarray:
    """Loops of bowel in mesenteric fat, a few of them with gas."""
    fat = smooth_step(1.6 * (field - 0.35))
    gas = coverage(9 * (field + 1.9), max(h, 3.0))
    return paint(paint(BOWEL_HU + 8 * field, fat, _FAT_HU), gas, _GAS_HU)
