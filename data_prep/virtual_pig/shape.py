"""The thoracic cavity as a function of one inflation coordinate q (0 = the reference shape).

The wall is polar about the cranio-caudal axis and separable, R(theta, z; q) = rho(theta; q) f(z),
and the diaphragm is a height field z_d(x, y; q); so a column of the cavity is an interval in z and
its volume a two-dimensional sum. About 60 % of a volume change is diaphragm descent, 40 % rib cage.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from .lattice import Lattice, Points, coverage
from .traits import Proportions

SUPERELLIPSE = 2.3
_ANGLES = np.linspace(-np.pi, np.pi, 1441)
_TAPER_FLOOR = 0.02
BASE_SHIFT_STEPS = 4


@dataclass(frozen=True)
class Chest:
    """Sizes of one pig's thoracic cavity, mm."""

    scale: float  # all template lengths times this; about 0.84 at 33 kg
    half_width: float
    depth_ventral: float
    depth_dorsal: float
    top: float  # z of the cupula
    belt: float  # z below which the wall no longer widens
    dome: float  # fall of the diaphragm from dome to wall
    apex_y: float  # where the dome is highest
    keel: float
    rib_strain: float  # radial strain per unit q
    descent: float  # diaphragm descent per unit q


def build_chest(p: Proportions, scale: float) -> Chest:
    """The chest with proportions `p` at size `scale`."""
    return Chest(
        scale=scale,
        half_width=77.0 * scale * p.half_width,
        depth_ventral=98.0 * scale * p.depth_ventral,
        depth_dorsal=84.0 * scale * p.depth_dorsal,
        top=150.0 * scale * p.height,
        belt=-15.0 * scale,
        dome=100.0 * scale * p.dome,
        apex_y=-14.0 * scale * p.apex,
        keel=p.keel,
        rib_strain=0.050 * p.rib_strain,
        descent=19.0 * scale * p.descent,
    )


def taper(chest: Chest, z: np.ndarray, floor: float = _TAPER_FLOOR) -> np.ndarray:
    """f(z): 1 at the belt, falling to `floor` at the cupula, slowly widening below the belt."""
    t = np.clip((z - chest.belt) / (chest.top - chest.belt), 0, 1)
    flare = 1 + 0.04 * np.clip((chest.belt - z) / (80 * chest.scale), 0, 1)
    return np.maximum((1 - t**2.1) ** 0.8, floor) * flare


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


@dataclass(frozen=True)
class Pose:
    """The cavity of `chest` at inflation `q`, supine or prone."""

    chest: Chest
    q: float
    prone: bool

    @cached_property
    def radius_table(self) -> np.ndarray:
        return unit_radius(self.chest, _ANGLES, self.q, self.prone)

    @cached_property
    def rest_table(self) -> np.ndarray:
        return unit_radius(self.chest, _ANGLES, 0.0, False)

    def rho(self, angle: np.ndarray) -> np.ndarray:
        return np.interp(angle, _ANGLES, self.radius_table).astype(np.float32)

    def rest_rho(self, angle: np.ndarray) -> np.ndarray:
        return np.interp(angle, _ANGLES, self.rest_table).astype(np.float32)


def diaphragm_z(pose: Pose, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height z_d of the diaphragm, mm: a dome with two cupulae, pushed up on the dependent side."""
    c = pose.chest
    depth = np.where(y > c.apex_y, c.depth_dorsal - c.apex_y, c.depth_ventral + c.apex_y)
    s2 = (x / (0.98 * c.half_width)) ** 2 + ((y - c.apex_y) / depth) ** 2
    cupulae = 4 * c.scale * np.exp(-(((np.abs(x) - 32 * c.scale) / (22 * c.scale)) ** 2))
    tilt = (-5 if pose.prone else 5) * c.scale * y / c.depth_dorsal
    fall = c.dome * np.minimum(s2, 1.5625) ** 1.15
    return cupulae + tilt - fall - c.descent * pose.q * (1 - 0.25 * np.minimum(s2, 1.44))


def spine_distance(chest: Chest, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance (mm, about) to the vertebral bodies, negative inside; the same at every z."""
    s = chest.scale
    k = np.sqrt((x / (17 * s)) ** 2 + ((y - chest.depth_dorsal + s) / (15 * s)) ** 2)
    return (k - 1) * 15 * s


def cavity_coverage(pose: Pose, lattice: Lattice) -> np.ndarray:
    """Share of each voxel inside the thoracic cavity `[z, y, x]`: wall, diaphragm, not spine."""
    z, y, x = lattice.open_mesh()
    h = lattice.size_mm
    edge = taper(pose.chest, z) * pose.rho(np.arctan2(y, x))
    inside = coverage(np.hypot(y, x) - edge, h) * coverage(z - pose.chest.top, h)
    # A sloping height field: its distance is about 0.8 of the vertical one.
    inside *= coverage(0.8 * (diaphragm_z(pose, y, x) - z), h)
    return inside * (1 - coverage(spine_distance(pose.chest, y, x), h))


def _wall_height(chest: Chest, share: np.ndarray) -> np.ndarray:
    """z at which f(z) = share; the cavity's columns end there."""
    z = np.linspace(chest.top, chest.belt - 80 * chest.scale, 800)
    f = taper(chest, z)
    inside = np.interp(share, f, z)
    return np.where(share <= _TAPER_FLOOR, chest.top, np.where(share > f[-1], -np.inf, inside))


def cavity_ml(pose: Pose, step_mm: float = 2.0) -> float:
    """Volume of the cavity as a sum over columns, ml."""
    spine, _, column = _columns(pose, step_mm)
    return float((column * (1 - spine)).sum()) * step_mm**2 / 1000


def _columns(pose: Pose, step_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spine coverage, diaphragm z and height (mm) of the cavity's columns, each `[y, x]`."""
    c = pose.chest
    x = np.arange(-1.3 * c.half_width, 1.3 * c.half_width, step_mm)
    y = np.arange(-1.3 * c.depth_ventral, 1.3 * c.depth_dorsal, step_mm)[:, None]
    share = np.hypot(y, x) / pose.rho(np.arctan2(y, x))
    diaphragm = diaphragm_z(pose, y, x)
    height = np.maximum(_wall_height(c, share) - diaphragm, 0)
    return coverage(spine_distance(c, y, x), step_mm), diaphragm, height


def cavity_bottom_mm(pose: Pose) -> float:
    """z of the deepest recess between diaphragm and wall."""
    _, diaphragm, column = _columns(pose, 2.0)
    return float(diaphragm[column > 0].min())


def pose_of_volume(chest: Chest, volume_ml: float, prone: bool) -> Pose:
    """The pose whose cavity holds `volume_ml`."""

    def excess(q: float) -> float:
        return cavity_ml(Pose(chest, q, prone)) - volume_ml

    return Pose(chest, float(brentq(excess, -6.0, 8.0, xtol=1e-4)), prone)


def to_reference(pose: Pose, points: Points) -> Points:
    """Base map: scan points to the reference cavity, mm.

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
