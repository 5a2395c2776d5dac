"""Heart, great vessels and septum between the lungs.

All of it in the reference frame (mm, times the pig's scale). These organs are incompressible: they
shift with the lungs around them and keep their volume. The scan is not gated: heart and lung share
the heart's border, as its average over a beat does.
"""

import numpy as np

from .airways import (
    oesophagus_distance,
    paint_airways,
    segment_distance,
    trachea_axis,
    trachea_distance,
)
from .chest import Chest, spine_y
from .lattice import Points, coverage, paint, smooth_step
from .lobes import septum_x
from .traits import Traits

_HEART_AXES = (34.0, 38.0, 48.0)  # semi-axes of a heart of 259.8 ml
_BEAT_MM = (2.5, 7.0)  # travel of the heart's border at its base and at the left apex
_FAR = 99.0
_BLOOD_HU, _MUSCLE_HU, _FAT_HU, _NODE_HU = 42.0, 48.0, -75.0, 38.0


def _heart_frame(chest: Chest, traits: Traits, at: Points) -> tuple[Points, np.ndarray]:
    """Coordinates along the heart's (right-left, front-back, apex-base) semi-axes, and these."""
    z, y, x = at
    s = chest.scale
    axes = np.array(_HEART_AXES) * np.cbrt(traits.heart_ml / 259.8)
    dx, dy, dz = x - 10 * s, y + 38 * s, z - 38 * s
    # Turned by 0.45 rad: the heart leans towards its left apex.
    return (0.900 * dx + 0.435 * dz, dy, -0.435 * dx + 0.900 * dz), axes


def heart_distance(chest: Chest, traits: Traits, at: Points) -> np.ndarray:
    """Signed distance (mm, about) to the heart: an ellipsoid, narrower towards its apex."""
    (u, dy, v), (a, b, c) = _heart_frame(chest, traits, at)
    waist = 1 + 0.16 * np.clip(v / c, -1, 1)
    return (np.sqrt((u / a / waist) ** 2 + (dy / b) ** 2 + (v / c) ** 2) - 1) * b


def beat_mm(chest: Chest, traits: Traits, at: Points) -> np.ndarray:
    """Width (mm) over which the beat smears the heart's border: most at the left ventricle."""
    (u, _, v), (a, _, c) = _heart_frame(chest, traits, at)
    ventricle = smooth_step(0.5 + 0.45 * u / a - 0.45 * v / c)
    return _BEAT_MM[0] + (_BEAT_MM[1] - _BEAT_MM[0]) * ventricle


def _arch_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to the aorta: from the heart's base over an arch down along the spine."""
    z, y, x = at
    s = chest.scale
    back = spine_y(chest, z) - 27 * s
    down = np.where(z < 82 * s, np.hypot(x - 14 * s, y - back) - 8.5 * s, _FAR)
    turn = 82 * s
    end = float(spine_y(chest, np.array(turn))) / s - 27
    middle, radius = (end - 8) / 2 * s, (end + 8) / 2 * s
    aside = x - s * (9 + 5 * np.clip((y - middle) / radius, -1, 1))
    ring = np.hypot(np.hypot(z - turn, y - middle) - radius, aside) - 8 * s
    rise = segment_distance(at, (52 * s, -14 * s, 3 * s), (82 * s, -8 * s, 4 * s)) - 8 * s
    return np.minimum(np.minimum(down, rise), np.where(z >= turn, ring, _FAR))


def _cranial_vessels(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to cranial vena cava, brachiocephalic trunk and left subclavian artery."""
    z, y, x = at
    s = chest.scale
    y0, _ = trachea_axis(chest, z)
    vessels = ((-11, 15, 7.0, 58), (2, 17, 6.0, 88), (10, 11, 4.0, 92))
    parts = [
        np.where(z > low * s, np.hypot(x - x0 * s, y - y0 + fore * s) - r * s, _FAR)
        for x0, fore, r, low in vessels
    ]
    return np.minimum(np.minimum(parts[0], parts[1]), parts[2])


def vessel_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to aorta, both venae cavae and the arteries of neck and forelimbs."""
    z, y, x = at
    s = chest.scale
    cava = np.where(z < 45 * s, np.hypot(x + 20 * s, y + 2 * s) - 8 * s, _FAR)
    return np.minimum(np.minimum(_arch_distance(chest, at), cava), _cranial_vessels(chest, at))


def hilum_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance (mm, about) to both hila."""
    z, y, x = at
    s = chest.scale
    k = np.sqrt(
        ((np.abs(x) - 8 * s) / (18 * s)) ** 2
        + ((y - 12 * s) / (14 * s)) ** 2
        + ((z - 64 * s) / (18 * s)) ** 2
    )
    return (k - 1) * 14 * s


def _fat_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to septum and cranial mediastinum: fat, thymus and thin vessels."""
    z, y, x = at
    s = chest.scale
    # Thicker behind the sternum and around the great vessels than in between.
    half = s * (1.4 + 3.5 * smooth_step((-y - 62 * s) / (22 * s)))
    septum = np.abs(x - septum_x(chest, z, y)) - half
    aside = (x - 0.5 * septum_x(chest, z, y)) / (13 * s)
    cranial = np.hypot(aside, (y + 6 * s) / (30 * s))
    rise = smooth_step((z - 62 * s) / (16 * s))
    return np.minimum(septum, np.where(rise > 0, (cranial - rise) * 13 * s, _FAR))


def mediastinum_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to everything between the lungs but the heart."""
    parts = (
        oesophagus_distance(chest, at),
        vessel_distance(chest, at),
        hilum_distance(chest, at),
        _fat_distance(chest, at),
    )
    distance = trachea_distance(chest, at)
    for part in parts:
        distance = np.minimum(distance, part)
    return distance


def mediastinum_coverage(chest: Chest, traits: Traits, at: Points, h: float) -> np.ndarray:
    """Share of each voxel (edge `h` mm) held by heart and mediastinum `[z, y, x]`."""
    border = np.hypot(h, beat_mm(chest, traits, at))
    heart = coverage_over(heart_distance(chest, traits, at), border)
    return np.maximum(heart, coverage(mediastinum_distance(chest, at), h))


def coverage_over(distance_mm: np.ndarray, border_mm: np.ndarray) -> np.ndarray:
    """Time-averaged share inside, with an edge as wide as `border_mm`: a cubic ramp."""
    return smooth_step(0.5 - distance_mm / (1.5 * border_mm)).astype(np.float32)


def paint_mediastinum(
    chest: Chest, traits: Traits, at: Points, h: float, fat_field: np.ndarray
) -> np.ndarray:
    """HU `[z, y, x]`: fat and thymus around vessels (blood 42), heart muscle 48 and airways."""
    s = chest.scale
    heart = heart_distance(chest, traits, at)
    fat = _FAT_HU + (_NODE_HU - _FAT_HU) * (0.5 + 0.5 * np.tanh(1.5 * fat_field + 0.3))
    hu = paint(fat, coverage(hilum_distance(chest, at) - 1, h), _NODE_HU)
    hu = paint(hu, coverage(oesophagus_distance(chest, at), h), _NODE_HU)
    hu = paint(hu, coverage(heart - 5, 4.0), _MUSCLE_HU)
    hu = paint(hu, coverage(heart + 9 * s, 4.0), _BLOOD_HU)
    rind = coverage(np.abs(heart + 0.5) - 2, 4.0) * (0.5 + 0.5 * np.tanh(fat_field))
    hu = paint(hu, rind, _FAT_HU)
    hu = paint(hu, coverage(vessel_distance(chest, at), h), _BLOOD_HU)
    return paint_airways(chest, at, h, hu)
