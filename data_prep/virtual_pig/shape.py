"""The thoracic cavity as a function of one inflation coordinate q (0 = the reference shape).

In the straight frame of `chest` the wall is polar about the cranio-caudal axis and separable,
R(theta, z; q) = rho(theta; q) f(z), and the diaphragm is a height field z_d(x, y; q); so a column
of the cavity is an interval in z and its volume a two-dimensional sum. About 60 % of a volume
change is diaphragm descent, 40 % rib cage. Pleural fluid draws the lungs' boundary in from the
wall on the dependent side; the cavity is then what it leaves to lungs and mediastinum.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from .chest import Chest, height_at, spine_distance, spine_span, taper
from .lattice import Lattice, Points, coverage

SUPERELLIPSE = 2.3
_ANGLES = np.linspace(-np.pi, np.pi, 1441)
BASE_SHIFT_STEPS = 4
_DEEPEST_FLUID_MM = 40.0


def unit_radius(chest: Chest, angle: np.ndarray, q: float, prone: bool) -> np.ndarray:
    """rho(theta; q), mm, for `angle` = atan2(y, x).

    The spine stays where it is; prone, the sternum rests on the table and hardly moves either.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    depth = np.where(sin > 0, chest.depth_dorsal, chest.depth_ventral)
    n = SUPERELLIPSE
    radius = (np.abs(cos / chest.half_width) ** n + np.abs(sin / depth) ** n) ** (-1 / n)
    ventral, dorsal = np.clip(-sin, 0, 1), np.clip(sin, 0, 1)
    radius = radius * (1 - 1.6 * chest.keel * ventral**2 * np.abs(cos))
    held = dorsal**4
    if prone:
        held = held + 0.8 * ventral**4
        radius = radius * (1 - 0.03 * ventral**2 + 0.015 * np.abs(cos))
    return radius * (1 + chest.rib_strain * q * (1 - held))


def fluid_profile(angle: np.ndarray, prone: bool) -> np.ndarray:
    """Thickness of pleural fluid, 0..1: two crescents in the dependent gutters beside midline."""
    cos, sin = np.cos(angle), np.sin(angle)
    if prone:  # the heart and its ligament keep the fluid further from the midline
        return 5.4 * np.clip(-sin, 0, 1) ** 3 * cos**2
    return 1.6 * np.clip(sin, 0, 1) ** 4 * cos**2 / (cos**2 + 0.05)


@dataclass(frozen=True)
class Pose:
    """The cavity of `chest` at inflation `q`, supine or prone."""

    chest: Chest
    q: float
    prone: bool
    fluid_mm: float = 0.0  # thickness of the pleural fluid

    @cached_property
    def wall_table(self) -> np.ndarray:
        return unit_radius(self.chest, _ANGLES, self.q, self.prone)

    @cached_property
    def radius_table(self) -> np.ndarray:
        return self.wall_table - self.fluid_mm * fluid_profile(_ANGLES, self.prone)

    @cached_property
    def rest_table(self) -> np.ndarray:
        return unit_radius(self.chest, _ANGLES, 0.0, False)

    def rho(self, angle: np.ndarray) -> np.ndarray:
        """Radius (mm) of the lungs' outer boundary."""
        return np.interp(angle, _ANGLES, self.radius_table).astype(np.float32)

    def wall_rho(self, angle: np.ndarray) -> np.ndarray:
        """Radius (mm) of the inner chest wall; the fluid is between it and the lungs."""
        return np.interp(angle, _ANGLES, self.wall_table).astype(np.float32)

    def rest_rho(self, angle: np.ndarray) -> np.ndarray:
        return np.interp(angle, _ANGLES, self.rest_table).astype(np.float32)

    @property
    def dry(self) -> "Pose":
        """The same chest wall and diaphragm without fluid."""
        return replace(self, fluid_mm=0.0)


def diaphragm_z(pose: Pose, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height z_d of the diaphragm, mm: a dome with two cupulae, pushed up on the dependent side."""
    c = pose.chest
    depth = np.where(y > c.apex_y, c.depth_dorsal - c.apex_y, c.depth_ventral + c.apex_y)
    s2 = (x / (0.98 * c.half_width)) ** 2 + ((y - c.apex_y) / depth) ** 2
    cupulae = 4 * c.scale * np.exp(-(((np.abs(x) - 32 * c.scale) / (22 * c.scale)) ** 2))
    tilt = (-5 if pose.prone else 5) * c.scale * y / c.depth_dorsal
    fall = c.dome * np.minimum(s2, 1.5625) ** 1.15
    return cupulae + tilt - fall - c.descent * pose.q * (1 - 0.25 * np.minimum(s2, 1.44))


def cavity_coverage(pose: Pose, lattice: Lattice) -> np.ndarray:
    """Share of each voxel `[z, y, x]` of the straight frame inside the cavity of the lungs."""
    return cavity_share(pose, lattice.open_mesh(), lattice.size_mm)


def cavity_share(pose: Pose, at: Points, h: float) -> np.ndarray:
    """Share of voxels (edge `h` mm) at straight points inside wall and diaphragm, not spine."""
    _, y, x = at
    angle, r = np.arctan2(y, x), np.hypot(y, x)
    return _inside(pose, at, h, r - taper(pose.chest, at[0]) * pose.rho(angle))


def cavity_and_fluid(pose: Pose, at: Points, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of voxels held by lungs and mediastinum, and by the pleural fluid around them."""
    cavity = cavity_share(pose, at, h)
    if pose.fluid_mm == 0:
        return cavity, np.zeros_like(cavity)
    return cavity, np.maximum(cavity_share(pose.dry, at, h) - cavity, 0)


def _inside(pose: Pose, at: Points, h: float, from_wall: np.ndarray) -> np.ndarray:
    z, y, x = at
    inside = coverage(from_wall, h) * coverage(z - pose.chest.top, h)
    # A sloping height field: its distance is about 0.8 of the vertical one.
    inside *= coverage(0.8 * (diaphragm_z(pose, y, x) - z), h)
    return inside * (1 - coverage(spine_distance(pose.chest, at), h))


def cavity_ml(pose: Pose, step_mm: float = 2.0) -> float:
    """Volume of the cavity as a sum over columns, ml."""
    _, height = _columns(pose, step_mm)
    return float(height.sum()) * step_mm**2 / 1000


def fluid_ml(pose: Pose) -> float:
    """Volume of the pleural fluid, ml."""
    return cavity_ml(pose.dry) - cavity_ml(pose)


def _columns(pose: Pose, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Diaphragm z and height (mm, without spine) of the cavity's columns, each `[y, x]`."""
    c = pose.chest
    x = np.arange(-1.3 * c.half_width, 1.3 * c.half_width, step_mm)
    y = np.arange(-1.3 * c.depth_ventral, 1.3 * c.depth_dorsal, step_mm)[:, None]
    share = np.hypot(y, x) / pose.rho(np.arctan2(y, x))
    low, high = diaphragm_z(pose, y, x), height_at(taper, c, share)
    spine_low, spine_high = spine_span(c, y, x)
    spine = np.maximum(np.minimum(high, spine_high) - np.maximum(low, spine_low), 0)
    return low, np.maximum(high - low, 0) - spine


def cavity_bottom_mm(pose: Pose) -> float:
    """z of the deepest recess between diaphragm and wall."""
    diaphragm, height = _columns(pose.dry, 2.0)
    return float(diaphragm[height > 0].min())


def pose_of_volume(chest: Chest, volume_ml: float, prone: bool, effusion_ml: float = 0.0) -> Pose:
    """The pose that leaves `volume_ml` to lungs and mediastinum beside the pleural fluid."""

    def excess(q: float) -> float:
        return cavity_ml(Pose(chest, q, prone)) - volume_ml - effusion_ml

    pose = Pose(chest, float(brentq(excess, -6.0, 8.0, xtol=1e-4)), prone)
    return pose if effusion_ml == 0 else _with_fluid(pose, effusion_ml)


def _with_fluid(pose: Pose, effusion_ml: float) -> Pose:
    def excess(fluid_mm: float) -> float:
        return fluid_ml(replace(pose, fluid_mm=fluid_mm)) - effusion_ml

    return replace(pose, fluid_mm=float(brentq(excess, 0, _DEEPEST_FLUID_MM, xtol=1e-3)))


def to_reference(pose: Pose, points: Points) -> Points:
    """Base map: points of the straight frame to the reference cavity, mm.

    A point keeps its polar angle, its fraction of the wall's radius and its fraction of the height
    between diaphragm and cupula; below the diaphragm it keeps its depth. The reference height
    depends on where the point lands, hence a short fixed-point iteration.
    """
    c, rest = pose.chest, Pose(pose.chest, 0.0, False)
    z, y, x = points
    r = np.hypot(y, x) + np.float32(1e-6)
    angle, cos, sin = np.arctan2(y, x), x / r, y / r
    scaled = r / (pose.rho(angle) * taper(c, z)) * pose.rest_rho(angle)
    zd = diaphragm_z(pose, y, x)
    below, share = z < zd, (z - zd) / np.maximum(c.top - zd, 1)
    y0, x0, z0 = y, x, z
    for _ in range(BASE_SHIFT_STEPS):
        zd0 = diaphragm_z(rest, y0, x0)
        z0 = np.where(below, z - zd + zd0, zd0 + share * (c.top - zd0))
        r0 = scaled * taper(c, z0)
        y0, x0 = r0 * sin, r0 * cos
    return z0.astype(np.float32), y0.astype(np.float32), x0.astype(np.float32)
