"""The body wall around the cavity: skin, fat, muscle, ribs, sternum, vertebrae, scapulae (HU).

Painted once in the reference frame; a scan reads it through a radial map that keeps cross-sections'
area, so that ribs stay at their height while the lung slides along them.
"""

from dataclasses import dataclass

import numpy as np

from .lattice import Lattice, coverage, smooth_step
from .mediastinum import paint, trachea_distance
from .shape import Chest, Pose, spine_distance, taper

MUSCLE_HU, FAT_HU, SKIN_HU = 57.0, -100.0, 10.0
WALL_TAPER_FLOOR = 0.62  # shoulders and neck stay wide where the cavity ends
RIB_PITCH_MM, RIB_SLOPE_MM = 21.0, 38.0


@dataclass(frozen=True)
class _Frame:
    """What the painters share: coordinates, polar angle, depth below the inner chest wall, mm."""

    chest: Chest
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    depth: np.ndarray
    h: float

    @property
    def behind(self) -> np.ndarray:
        """y relative to the cavity's dorsal edge."""
        return self.y - self.chest.depth_dorsal

    def from_disc(self, z: np.ndarray) -> np.ndarray:
        """Distance along z to the nearest intervertebral disc."""
        pitch = RIB_PITCH_MM * self.chest.scale
        return np.abs(z / pitch - np.round(z / pitch)) * pitch


def wall_thickness(chest: Chest, fat: float, sin: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Inner chest wall to skin, mm: muscle, thick along the back and at the shoulders, and fat."""
    dorsal, ventral = np.clip(sin, 0, 1), np.clip(-sin, 0, 1)
    muscle = 13 + 24 * dorsal**3 + 4 * ventral
    shoulder = 26 * smooth_step((z - 55 * chest.scale) / (60 * chest.scale)) * (1 - sin**2)
    return chest.scale * (muscle + shoulder + 11 * fat)


def paint_wall(chest: Chest, fat: float, lattice: Lattice) -> np.ndarray:
    """HU `[z, y, x]` outside the cavity, in the reference frame."""
    z, y, x = lattice.open_mesh()
    r = np.hypot(y, x) + 1e-6
    rho = Pose(chest, 0.0, False).rho(np.arctan2(y, x))
    depth = r - taper(chest, z, WALL_TAPER_FLOOR) * rho
    frame = _Frame(chest, z, y, x, x / r, y / r, depth.astype(np.float32), lattice.size_mm)
    hu = _soft_layers(frame, wall_thickness(chest, fat, frame.sin, z), fat)
    for layer in (_ribs, _vertebrae, _sternum, _scapulae, _neck_airway):
        hu = layer(frame, hu)
    return hu.astype(np.float32)


def _soft_layers(f: _Frame, thickness: np.ndarray, fat: float) -> np.ndarray:
    s = f.chest.scale
    hu = np.full(f.depth.shape, MUSCLE_HU, np.float32)
    fat_from = thickness - s * (2 + 11 * fat)
    hu = paint(hu, smooth_step((f.depth - fat_from) / 3), FAT_HU)
    return paint(hu, coverage(thickness - 2.5 - f.depth, f.h), SKIN_HU)


def _ribs(f: _Frame, hu: np.ndarray) -> np.ndarray:
    """Ribs that slope from spine to sternum: cortex 750, marrow 260, costal cartilage 150/140."""
    s = f.chest.scale
    pitch = RIB_PITCH_MM * s
    round_ = (1 - f.sin) / 2  # 0 at the spine, 1 at the sternum
    phase = (f.z + RIB_SLOPE_MM * s * round_) / pitch
    along = (phase - np.round(phase)) * pitch
    k = np.hypot(along / (5.5 * s), (f.depth - 6 * s) / (3.6 * s))
    distance = (k - 1) * 3.6 * s
    there = (f.z < f.chest.top - 8 * s) & (f.z > -95 * s)
    cartilage = smooth_step((round_ - 0.80) / 0.08)
    bone = np.where(distance > -1.3, 750 - 600 * cartilage, 260 - 120 * cartilage)
    return paint(hu, coverage(distance, f.h) * there, bone)


def _vertebrae(f: _Frame, hu: np.ndarray) -> np.ndarray:
    """Bodies with discs every 21 mm, canal, arches, transverse and spinous processes."""
    s, h = f.chest.scale, f.h
    body = spine_distance(f.chest, f.y, f.x)
    off_disc = f.from_disc(f.z)
    disc = coverage(off_disc - 2.5, h)
    bone = np.where(body > -2.5, 520.0, 230.0)
    hu = paint(hu, coverage(body, h), paint(bone, disc, 95.0))
    wing = (np.hypot(f.x / (30 * s), (f.behind - 10 * s) / (6 * s)) - 1) * 6 * s
    hu = paint(hu, coverage(wing, h) * (off_disc > 7), 420)
    ring = np.hypot(f.x, f.behind - 20 * s)
    hu = paint(hu, coverage(ring - 11 * s, h) * (1 - 0.8 * disc), 560)
    hu = paint(hu, coverage(ring - 6.5 * s, h), 30)
    blade = np.maximum(np.abs(f.x) - 3 * s, np.maximum(f.behind - 52 * s, 24 * s - f.behind))
    return paint(hu, coverage(blade, h) * (off_disc > 6), 480)


def _sternum(f: _Frame, hu: np.ndarray) -> np.ndarray:
    """Sternum just outside the ventral wall, following its taper."""
    s = f.chest.scale
    wall = f.chest.depth_ventral * taper(f.chest, f.z, WALL_TAPER_FLOOR)
    k = np.hypot(f.x / (13 * s), (f.y + wall + 8 * s) / (7 * s))
    distance = (k - 1) * 7 * s
    there = (f.z > -60 * s) & (f.z < f.chest.top)
    return paint(hu, coverage(distance, f.h) * there, np.where(distance > -2, 380, 170))


def _scapulae(f: _Frame, hu: np.ndarray) -> np.ndarray:
    s = f.chest.scale
    there = (f.z > 45 * s) & (f.z < 140 * s) & (np.abs(f.cos) > 0.55) & (f.sin > -0.2)
    return paint(hu, coverage(np.abs(f.depth - 27 * s) - 2.2 * s, f.h) * there, 620)


def _neck_airway(f: _Frame, hu: np.ndarray) -> np.ndarray:
    """The trachea goes on above the cupula: a wall of 2.2 mm (times scale) around gas."""
    s = f.chest.scale
    tube = trachea_distance(f.chest, (f.z, f.y, f.x))
    above = f.z > f.chest.top - 30 * s
    hu = paint(hu, coverage(tube, f.h) * above, 42)
    return paint(hu, coverage(tube + 2.2 * s, f.h) * above, -995)
