"""The body wall around the cavity: skin, fat and muscle (HU), and where the skin is.

Painted once in the reference frame; a scan reads it through a radial map that keeps cross-sections'
area, so that ribs stay at their height while the lung slides along them. Bones: `skeleton`.
"""

import numpy as np

from . import skeleton
from .airways import paint_airways
from .chest import Chest, rib_taper
from .lattice import Lattice, coverage, layer_coverage, paint, smooth_step
from .shape import Pose
from .skeleton import WallFrame

MUSCLE_HU, FAT_HU, SKIN_HU = 57.0, -100.0, 10.0
_SKIN_MM, _PLANE_MM, _STREAK_HU = 2.5, 1.3, 90.0
_BLEND_MM = 14.0  # the limb runs into the trunk without a crease


def wall_thickness(chest: Chest, fat: float, sin: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Inner chest wall to skin, mm: muscle, thick along the back and at the shoulders, and fat."""
    dorsal, ventral = np.clip(sin, 0, 1), np.clip(-sin, 0, 1)
    muscle = 13 + 28 * dorsal**4 + 5 * ventral
    return chest.scale * (muscle + _shoulder(chest, z) * (1 - sin**2) + 11 * fat)


def _shoulder(chest: Chest, z: np.ndarray) -> np.ndarray:
    """Muscle around the scapula: swells from mid-chest on and ends at the neck."""
    s = chest.scale
    neck = smooth_step((z - 118 * s) / (60 * s))
    return 30 * smooth_step((z - 42 * s) / (56 * s)) * (1 - 0.45 * neck)


def skin_depth(chest: Chest, fat: float, frame: WallFrame) -> np.ndarray:
    """Distance (mm, about) below the skin of trunk and forelimbs; negative in the air."""
    trunk = wall_thickness(chest, fat, frame.sin, frame.z) - frame.depth
    limb = skeleton.limb_depth(frame)
    blend = np.maximum(_BLEND_MM - np.abs(trunk - limb), 0)
    return np.maximum(trunk, limb) + blend**2 / (4 * _BLEND_MM)


def paint_wall(chest: Chest, fat: float, lattice: Lattice, marbling: np.ndarray) -> np.ndarray:
    """HU `[z, y, x]` outside the cavity, in the reference frame; `marbling` is a unit field."""
    frame = wall_frame(chest, lattice)
    muscle = MUSCLE_HU + 6 * marbling - _STREAK_HU * smooth_step(1.5 * (marbling - 1.3))
    hu = _soft_layers(frame, skin_depth(chest, fat, frame), fat, muscle)
    for layer in skeleton.LAYERS:
        hu = layer(frame, hu)
    return _neck_airway(frame, hu).astype(np.float32)


def wall_frame(chest: Chest, lattice: Lattice) -> WallFrame:
    """Coordinates of every voxel of `lattice` in the wall at rest."""
    z, y, x = lattice.open_mesh()
    r = np.hypot(y, x) + 1e-6
    depth = r - rib_taper(chest, z) * Pose(chest, 0.0, False).rho(np.arctan2(y, x))
    return WallFrame(chest, z, y, x, x / r, y / r, depth.astype(np.float32), lattice.size_mm)


def _soft_layers(f: WallFrame, below_skin: np.ndarray, fat: float, muscle) -> np.ndarray:
    s = f.chest.scale
    hu = _fat_planes(f, muscle)
    hu = paint(hu, smooth_step((s * (2 + 11 * fat) - below_skin) / 3 + 0.5), FAT_HU)
    return paint(hu, coverage(below_skin - _SKIN_MM, f.h), SKIN_HU)


def _fat_planes(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Fat between the muscle layers: over the ribs, below the scapula, and beside the back."""
    s = f.chest.scale
    wave = 1.6 * s * np.sin(f.z / (9 * s) + 5 * f.cos)
    over_ribs = layer_coverage(f.depth - 13.5 * s - 0.5 * wave, _PLANE_MM, f.h)
    shoulder = smooth_step((f.z - 50 * s) / (25 * s)) * smooth_step((0.85 - np.abs(f.sin)) / 0.2)
    hu = paint(hu, 0.7 * over_ribs, FAT_HU)
    for depth, thick in ((21, 2.0), (39, 1.6)):
        plane = layer_coverage(f.depth - depth * s - wave, thick, f.h)
        hu = paint(hu, plane * shoulder, FAT_HU)
    back = layer_coverage(np.abs(f.x) - (15 + 0.25 * f.behind) * s, _PLANE_MM, f.h)
    return paint(hu, 0.7 * back * (f.behind > 12 * s), FAT_HU)


def _neck_airway(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Trachea, oesophagus and their tubes go on above the cupula."""
    s = f.chest.scale
    whole = paint_airways(f.chest, (f.z, f.y, f.x), f.h, hu)
    return np.where(f.z > f.chest.top - 30 * s, whole, hu)
