"""Sizes of one pig's chest and the curve of its spine.

Everything is built in a straight frame, in which the cavity is polar about the z axis. There the
spine follows the taper of the dorsal wall; `bend` is the shift along y that straightens the spine
again, slice by slice, and `sway` a small one along x; volumes stay as they are (a shear has
determinant 1). Only `render` and gravity see the bent animal.
"""

from dataclasses import dataclass

import numpy as np

from .lattice import Points
from .traits import Folds, Proportions

TAPER_FLOOR = 0.02
INLET = 0.42  # size of the thoracic inlet between the first ribs, as a share of the belt's
_SAG_MM = 16.0  # fall of the spine from mid-chest to the first rib, times scale


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
    folds: Folds  # how septum, fissures and body line wave


def build_chest(p: Proportions, scale: float, folds: Folds) -> Chest:
    """The chest with proportions `p` and `folds` at size `scale`."""
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
        folds=folds,
    )


def taper(chest: Chest, z: np.ndarray, floor: float = TAPER_FLOOR) -> np.ndarray:
    """f(z): 1 at the belt, falling to `floor` at the cupula, slowly widening below the belt."""
    t = np.clip((z - chest.belt) / (chest.top - chest.belt), 0, 1)
    flare = 1 + 0.04 * np.clip((chest.belt - z) / (80 * chest.scale), 0, 1)
    return np.maximum((1 - t**2.1) ** 0.8, floor) * flare


def rib_taper(chest: Chest, z: np.ndarray) -> np.ndarray:
    """g(z) of ribs, sternum and spine: the cavity's taper, but open at the inlet."""
    f = taper(chest, z)
    return ((f**6 + INLET**6) / (1 + INLET**6)) ** (1 / 6)


def spine_y(chest: Chest, z: np.ndarray) -> np.ndarray:
    """y (mm, straight frame) of the cavity's dorsal edge at the vertebrae."""
    return chest.depth_dorsal * rib_taper(chest, z)


def bend(chest: Chest, z: np.ndarray) -> np.ndarray:
    """Shift along y (mm) from the straight frame to the animal, whose spine falls gently."""
    t = np.clip(z / (150 * chest.scale), 0, 1.15)
    return chest.depth_dorsal - _SAG_MM * chest.scale * t**2 - spine_y(chest, z)


def sway(chest: Chest, z: np.ndarray) -> np.ndarray:
    """Shift along x (mm): no animal lies quite straight."""
    lean, curve = chest.folds.sway_mm
    t = np.clip(z / (150 * chest.scale), -1, 1.15)
    return chest.scale * (lean * t + curve * (t**2 - 0.3))


def straightened(chest: Chest, points: Points) -> Points:
    """Scan points in the straight frame."""
    z, y, x = points
    shift_y, shift_x = bend(chest, z), sway(chest, z)
    return z, (y - shift_y).astype(np.float32), (x - shift_x).astype(np.float32)


def spine_distance(chest: Chest, at: Points) -> np.ndarray:
    """Signed distance (mm, about) to the vertebral bodies, negative inside."""
    z, y, x = at
    s = chest.scale
    k = np.sqrt((x / (17 * s)) ** 2 + ((y - spine_y(chest, z) + s) / (15 * s)) ** 2)
    return (k - 1) * 15 * s


def height_at(profile, chest: Chest, share: np.ndarray) -> np.ndarray:
    """z at which the taper `profile` (`taper`, `rib_taper`) has fallen to `share`."""
    z = np.linspace(chest.top, chest.belt - 80 * chest.scale, 800)
    f = profile(chest, z)
    return np.where(share > f[-1], -np.inf, np.interp(share, f, z))


def spine_span(chest: Chest, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest z (mm) at which a column of the straight frame is inside the spine."""
    s = chest.scale
    half = 15 * s * np.sqrt(np.clip(1 - (x / (17 * s)) ** 2, 0, 1))
    low, high = (
        height_at(rib_taper, chest, (y + s + side * half) / chest.depth_dorsal) for side in (1, -1)
    )
    return low, np.where(half > 0, high, low)
