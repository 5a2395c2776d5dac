"""Trachea, main bronchi, the right tracheal bronchus, and the tubes put into trachea and gullet.

Reference frame, mm times the pig's scale. In swine the right cranial lobe has a bronchus of its
own from the trachea, above the carina. The endotracheal tube stays above it.
"""

import numpy as np

from .chest import Chest, rib_taper, spine_y
from .lattice import Points, coverage, layer_coverage, paint, smooth_step

TRACHEA_MM, WALL_MM = 10.0, 2.2  # outer radius and wall, times scale
CARINA_Z, TRACHEAL_BRONCHUS_Z, TUBE_TIP_Z = 78.0, 96.0, 118.0  # times scale
TUBE_RADIUS_MM, TUBE_WALL_MM = 5.0, 1.5  # a tube of 7 mm inside
LINE_MM, LINE_HU = 1.4, 2200.0  # barium stripe along a tube
GASTRIC_RADIUS_MM, GASTRIC_WALL_MM, GASTRIC_TIP_Z = 2.6, 1.0, -45.0
PVC_HU, GAS_HU, WALL_HU = 160.0, -995.0, 42.0
_FAR = 99.0


def trachea_axis(chest: Chest, z: np.ndarray) -> tuple[np.ndarray, float]:
    """y and x of the trachea's middle; it keeps in front of the spine as the chest narrows."""
    s = chest.scale
    return s * (17 - 28 * (0.754 - rib_taper(chest, z))), -4 * s


def oesophagus_axis(chest: Chest, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and x of the oesophagus: left of the trachea in the inlet, behind it, to the stomach."""
    s = chest.scale
    upper = smooth_step((z - 30 * s) / (45 * s))
    hiatus = smooth_step((15 * s - z) / (60 * s))
    inlet = smooth_step((z - 92 * s) / (24 * s))
    y = spine_y(chest, z) - s * (41 - 9 * upper + 34 * hiatus)
    return y, s * (2 - 3 * upper + 12 * inlet + 14 * hiatus)


def trachea_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to the trachea's outer wall, above the carina."""
    z, y, x = at
    y0, x0 = trachea_axis(chest, z)
    tube = np.hypot(x - x0, y - y0) - TRACHEA_MM * chest.scale
    return np.where(z > CARINA_Z * chest.scale, tube, _FAR)


def oesophagus_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to the flat, empty oesophagus."""
    z, y, x = at
    s = chest.scale
    y0, x0 = oesophagus_axis(chest, z)
    return (np.hypot((x - x0) / (8 * s), (y - y0) / (5.5 * s)) - 1) * 6 * s


def segment_distance(at: Points, start, end) -> np.ndarray:
    """Distance (mm) to the straight line from `start` to `end`, each (z, y, x)."""
    axis = np.subtract(end, start).astype(np.float32)
    away = [p - np.float32(a) for p, a in zip(at, start, strict=True)]
    t = sum(d * a for d, a in zip(away, axis, strict=True)) / float(axis @ axis)
    t = np.clip(t, 0, 1)
    return np.sqrt(sum((d - t * a) ** 2 for d, a in zip(away, axis, strict=True)))


def bronchi_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance to the lumen of both main bronchi and the tracheal bronchus."""
    s = chest.scale
    y0, x0 = (float(a) / s for a in trachea_axis(chest, np.array(TRACHEAL_BRONCHUS_Z * s)))
    branches = (
        ((82, 17, -4), (62, 17, -19), 5.5),
        ((82, 17, -4), (62, 17, 19), 5.0),
        ((TRACHEAL_BRONCHUS_Z, y0, x0), (95, 16, -25), 3.6),
    )
    parts = [
        segment_distance(at, np.multiply(a, s), np.multiply(b, s)) - r * s for a, b, r in branches
    ]
    return np.minimum(np.minimum(parts[0], parts[1]), parts[2])


def paint_airways(chest: Chest, at: Points, h: float, hu: np.ndarray) -> np.ndarray:
    """`hu` with trachea, bronchi and the endotracheal and gastric tube."""
    s = chest.scale
    trachea = trachea_distance(chest, at)
    bronchi = bronchi_distance(chest, at)
    hu = paint(hu, coverage(np.minimum(trachea, bronchi - 1.2 * s), h), WALL_HU)
    hu = paint(hu, coverage(np.minimum(trachea + WALL_MM * s, bronchi), h), GAS_HU)
    z = at[0]
    y0, x0 = trachea_axis(chest, z)
    tube = (TUBE_RADIUS_MM, TUBE_WALL_MM, GAS_HU)
    hu = _paint_tube(hu, at, (y0 + 0.8 * s, x0), h, tube, TUBE_TIP_Z * s)
    return paint_gastric_tube(chest, at, h, hu)


def paint_gastric_tube(chest: Chest, at: Points, h: float, hu: np.ndarray) -> np.ndarray:
    """`hu` with the fluid-filled tube in the oesophagus, which ends in the stomach."""
    tube, tip = (GASTRIC_RADIUS_MM, GASTRIC_WALL_MM, 10.0), GASTRIC_TIP_Z * chest.scale
    return _paint_tube(hu, at, oesophagus_axis(chest, at[0]), h, tube, tip)


def _paint_tube(hu, at: Points, axis, h: float, tube, tip_z: float) -> np.ndarray:
    """A tube (outer radius, wall, content) about `axis` (y, x) above its tip, with its line."""
    z, y, x = at
    radius, wall, content = tube
    there = coverage(tip_z - z, h)
    dy, dx = y - axis[0], x - axis[1]
    r = np.hypot(dy, dx)
    hu = paint(hu, coverage(r - radius + wall, h) * there, content)
    hu = paint(hu, layer_coverage(r - radius + wall / 2, wall, h) * there, PVC_HU)
    line = layer_coverage(dy + radius - wall / 2, LINE_MM, h) * layer_coverage(dx, LINE_MM, h)
    return paint(hu, line * there, LINE_HU)
