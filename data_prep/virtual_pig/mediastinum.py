"""Heart, great vessels, airways and septum between the lungs, and what lies below the diaphragm.

All of it in the reference frame (mm, times the pig's scale). These organs are incompressible: they
shift with the lungs around them and keep their volume.
"""

import numpy as np

from .lattice import Points, coverage, smooth_step
from .shape import Chest, Pose, diaphragm_z
from .traits import Traits

_HEART_AXES = (34.0, 38.0, 48.0)  # semi-axes of a heart of 259.8 ml
_FAR = 99.0


def paint(hu: np.ndarray, cover: np.ndarray, value: np.ndarray | float) -> np.ndarray:
    """`hu` with `value` laid over it where `cover` (0..1) says."""
    return hu + cover * (value - hu)


def heart_distance(chest: Chest, traits: Traits, at: Points) -> np.ndarray:
    """Signed distance (mm, about) to the heart: an ellipsoid leaning towards the left apex."""
    z, y, x = at
    s = chest.scale
    size = np.cbrt(traits.heart_ml / 259.8)
    a, b, c = (axis * size for axis in _HEART_AXES)
    dx, dy, dz = x - 10 * s, y + 38 * s, z - 38 * s
    u, v = 0.900 * dx + 0.435 * dz, -0.435 * dx + 0.900 * dz  # turned by 0.45 rad
    return (np.sqrt((u / a) ** 2 + (dy / b) ** 2 + (v / c) ** 2) - 1) * b


def trachea_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to the trachea's outer wall, above the carina."""
    z, y, x = at
    s = chest.scale
    carina = 78 * s
    tube = np.hypot(x + 2 * s, y - 22 * s - 0.10 * s * (z - carina)) - 10 * s
    return np.where(z > carina, tube, _FAR)


def bronchi_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to the lumen of the two main bronchi."""
    z, y, x = at
    s = chest.scale
    aside = np.abs(x) - 11 / 24 * (84 * s - z)
    tube = np.hypot(aside, y - 18 * s) - 5.5 * s
    return np.where((z > 60 * s) & (z < 84 * s), tube, _FAR)


def mediastinum_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to everything between the lungs but the heart."""
    z, y, x = at
    s = chest.scale
    spine = chest.depth_dorsal - 3 * s
    aorta = np.hypot(x - 12 * s, y - spine + 24 * s) - 9 * s
    oesophagus = np.hypot(x - 2 * s, y - spine + 38 * s) - 7 * s
    cava = np.where(z < 45 * s, np.hypot(x + 20 * s, y + 2 * s) - 8 * s, _FAR)
    septum = np.abs(x - 3 * s * np.sin(z / (25 * s))) - 2 * s
    hilum = np.sqrt(
        ((np.abs(x) - 8 * s) / (20 * s)) ** 2
        + ((y - 14 * s) / (15 * s)) ** 2
        + ((z - 66 * s) / (20 * s)) ** 2
    )
    cranial = np.hypot(x / (20 * s), (y + 8 * s) / (34 * s))
    cranial = np.where(z > 70 * s, (cranial - 1) * 20 * s, _FAR)
    parts = (aorta, oesophagus, cava, septum, (hilum - 1) * 16 * s, cranial)
    distance = trachea_distance(chest, at)
    for part in parts:
        distance = np.minimum(distance, part)
    return distance


def mediastinum_coverage(chest: Chest, traits: Traits, at: Points, h: float) -> np.ndarray:
    """Share of each voxel (edge `h` mm) held by heart and mediastinum `[z, y, x]`."""
    heart = coverage(heart_distance(chest, traits, at), h)
    return np.maximum(heart, coverage(mediastinum_distance(chest, at), h))


def paint_mediastinum(
    chest: Chest, traits: Traits, at: Points, h: float, fat_field: np.ndarray
) -> np.ndarray:
    """HU `[z, y, x]` of heart, vessels and airways; blood 42, heart muscle 48, fat -70."""
    s = chest.scale
    heart = heart_distance(chest, traits, at)
    hu = paint(np.full(heart.shape, 42, np.float32), coverage(heart + 9 * s, h), 48)
    rind = coverage(np.abs(heart - 0.5) - 1.5, h) * (0.5 + 0.5 * np.tanh(fat_field))
    hu = paint(hu, rind, -70)
    hu = paint(hu, coverage(trachea_distance(chest, at) + 2.2 * s, h), -995)
    return paint(hu, coverage(bronchi_distance(chest, at), h), -995)


def paint_abdomen(
    chest: Chest, at: Points, h: float, fat_field: np.ndarray, hu: np.ndarray
) -> np.ndarray:
    """`hu` with liver (62 HU), softer viscera on the left and patches of fat below the dome."""
    z, y, x = at
    s = chest.scale
    below = z < diaphragm_z(Pose(chest, 0.0, False), y, x) - 2
    viscera = smooth_step((x - 5 * s) / (30 * s)) * smooth_step((-25 * s - z) / 20)
    fat = coverage(6 * (0.9 - fat_field), h) * smooth_step((-45 * s - z) / 15)
    return np.where(below, paint(62 - 25 * viscera, fat, -95), hu).astype(np.float32)
