"""Ribs, spine, sternum, scapulae and forelimbs of the body wall, in the reference frame (HU).

Lengths in mm times the pig's scale. The forelimbs are drawn cranially, as pigs lie in the scanner:
each humerus runs from the shoulder beside the first ribs forwards and down out of the field.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .airways import segment_distance
from .chest import Chest, rib_taper, spine_distance, spine_y
from .lattice import coverage, layer_coverage, paint, smooth_step

RIB_PITCH_MM, RIB_SLOPE_MM, _LAST_RIB_MM = 21.0, 58.0, -178.0
_SHOULDER, _ELBOW = (104.0, -42.0, 67.0), (192.0, -74.0, 76.0)  # z, y, x of the left humerus
_LIMB_MM = (38.0, 31.0)  # radius of the limb's flesh at shoulder and elbow


@dataclass(frozen=True)
class WallFrame:
    """What the painters share: coordinates, polar angle, depth below the inner chest wall, mm."""

    chest: Chest
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    depth: np.ndarray
    h: float

    @cached_property
    def behind(self) -> np.ndarray:
        """y relative to the vertebrae's front."""
        return self.y - spine_y(self.chest, self.z)

    @cached_property
    def humerus(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the humerus' axis (both sides alike), mm, and the share 0..1 along it."""
        s = self.chest.scale
        at = (self.z, self.y, np.abs(self.x))
        start, end = np.multiply(_SHOULDER, s), np.multiply(_ELBOW, s)
        axis = end - start
        away = sum((p - a) * d for p, a, d in zip(at, start, axis, strict=True))
        return segment_distance(at, start, end), np.clip(away / (axis @ axis), 0, 1)

    def from_disc(self) -> np.ndarray:
        """Distance along z to the nearest intervertebral disc."""
        pitch = RIB_PITCH_MM * self.chest.scale
        return np.abs(self.z / pitch - np.round(self.z / pitch)) * pitch


def limb_depth(f: WallFrame) -> np.ndarray:
    """Distance below the forelimbs' skin, mm; negative outside."""
    distance, along = f.humerus
    return (_LIMB_MM[0] + (_LIMB_MM[1] - _LIMB_MM[0]) * along) * f.chest.scale - distance


def ribs(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Ribs that slope from spine to sternum: cortex 780, marrow 160, costal cartilage 150/140."""
    s = f.chest.scale
    pitch = RIB_PITCH_MM * s
    around = np.arccos(np.clip(f.sin, -1, 1)) / np.pi  # 0 at the spine, 1 at the sternum
    root = f.z + _rib_fall(f, around)
    along = (root / pitch - np.round(root / pitch)) * pitch
    wide = 4.2 + 1.2 * around  # round at the neck of the rib, flat and broad in front
    k = np.hypot(along / (wide * s), (f.depth - 5 * s) / (3.4 * s))
    distance = (k - 1) * 3.4 * s
    # False ribs end ever further from the sternum.
    floating = smooth_step((-10 * s - root) / (170 * s))
    cartilage = smooth_step((around - 0.68 + 0.3 * floating) / 0.06)
    bone = np.where(distance > -1.1, 780 - 630 * cartilage, 160 - 20 * cartilage)
    there = (
        (f.z < f.chest.top - 4 * s) & (root > _LAST_RIB_MM * s) & (around < 0.95 - 0.4 * floating)
    )
    return paint(hu, coverage(distance, f.h) * there, bone)


def _rib_fall(f: WallFrame, around: np.ndarray) -> np.ndarray:
    """How far below its vertebra a rib is, mm: caudal ribs slope more, cartilage turns back up."""
    s = f.chest.scale
    slope = RIB_SLOPE_MM * (0.75 + 0.7 * smooth_step((110 * s - f.z) / (200 * s)))
    return slope * s * (around - 1.6 * np.maximum(around - 0.72, 0))


def vertebrae(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Bodies with discs every 21 mm, canal, arches, transverse and leaning spinous processes."""
    s, h = f.chest.scale, f.h
    body = spine_distance(f.chest, (f.z, f.y, f.x))
    off_disc = f.from_disc()
    disc = coverage(off_disc - 2.2, h)
    near_plate = coverage(off_disc - 4.0, h) * (1 - disc)
    bone = np.where(body > -2.0, 520.0, 220.0 + 240.0 * near_plate)
    hu = paint(hu, coverage(body, h), paint(bone, disc, 95.0))
    wing = (np.hypot(f.x / (27 * s), (f.behind - 12 * s) / (5.5 * s)) - 1) * 5.5 * s
    hu = paint(hu, coverage(wing, h) * (off_disc > 6), np.where(wing > -2, 480, 260))
    ring = np.hypot(f.x, f.behind - 20 * s)
    hu = paint(hu, coverage(ring - 10 * s, h) * (1 - 0.8 * disc), 560)
    hu = paint(hu, coverage(ring - 6.2 * s, h), 30)
    hu = paint(hu, coverage(ring - 3.8 * s, h), 38)
    return _spinous(f, hu)


def _spinous(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Processes that lean back (caudally) and are tallest over the cranial chest."""
    s = f.chest.scale
    pitch = RIB_PITCH_MM * s
    phase = (f.z + 0.35 * (f.behind - 28 * s)) / pitch
    off = np.abs(phase - np.round(phase + 0.5) + 0.5) * pitch  # from a body's middle
    tall = 36 + 8 * smooth_step(f.z / (90 * s))
    blade = np.maximum(np.abs(f.x) - 2.6 * s, np.maximum(f.behind - tall * s, 26 * s - f.behind))
    blade = np.maximum(blade, off - 6.5 * s)
    return paint(hu, coverage(blade, f.h), 460)


def sternum(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Sternebrae, joined by cartilage, just outside the ventral wall and following its taper."""
    s = f.chest.scale
    wall = f.chest.depth_ventral * rib_taper(f.chest, f.z)
    wide = 8 + 7 * smooth_step((70 * s - f.z) / (90 * s))
    k = np.hypot(f.x / (wide * s), (f.y + wall + 6 * s) / (6 * s))
    distance = (k - 1) * 6 * s
    there = (f.z > -60 * s) & (f.z < f.chest.top - 2 * s)
    pitch = 1.15 * RIB_PITCH_MM * s
    joint = np.abs(f.z / pitch - np.round(f.z / pitch)) * pitch
    bone = np.where(distance > -1.6, 420.0, 190.0)
    bone = paint(bone, coverage(joint - 2.5 * s, f.h), 110.0)
    return paint(hu, coverage(distance, f.h) * there, bone)


def scapulae(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """A triangle beside the ribs, broad at the back, narrow at the joint, with its spine."""
    s = f.chest.scale
    # 0 at the shoulder joint, 1 at the dorsal border.
    up = (f.y + 36 * s) / (80 * s)
    middle, half = (104 - 22 * up) * s, (7 + 20 * np.clip(up, 0, 1)) * s
    inside = np.minimum(half - np.abs(f.z - middle), 60 * s * np.minimum(up + 0.05, 1 - up))
    plate = f.depth - (29 - 6 * np.clip(up, 0, 1)) * s
    cover = layer_coverage(plate, 3.2 * s, f.h) * coverage(-inside, f.h)
    hu = paint(hu, cover, 640)
    ridge = np.maximum(np.abs(f.z - middle - 3 * s) - 1.3 * s, np.abs(plate - 5 * s) - 5 * s)
    return paint(hu, coverage(ridge, f.h) * (inside > 4 * s) * (up < 0.8), 600)


def humeri(f: WallFrame, hu: np.ndarray) -> np.ndarray:
    """Head with cancellous bone, shaft with a cortex of 3 mm around marrow, joint cartilage."""
    s, h = f.chest.scale, f.h
    distance, along = f.humerus
    outer = (9 + 6.5 * (1 - smooth_step(along / 0.22))) * s
    shell = distance - outer
    hu = paint(hu, coverage(shell - 1.5 * s, h) * (along < 0.2), 90)
    marrow = 330 - 300 * smooth_step(along / 0.3)
    hu = paint(hu, coverage(shell, h), 900)
    return paint(hu, coverage(shell + (1.8 + 1.5 * smooth_step(along / 0.2)) * s, h), marrow)


LAYERS = (ribs, vertebrae, sternum, scapulae, humeri)
