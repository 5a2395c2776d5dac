"""Septum and fissures: which lobe a point of the reference chest belongs to, and how far the
nearest fissure is.

Swine lungs: cranial and caudal lobe on the left; cranial, middle, caudal and accessory lobe on the
right (Nakakuki 1980). Lengths in mm times the pig's scale.
"""

import numpy as np

from .chest import Chest
from .lattice import Points, layer_coverage

LEFT_CRANIAL, LEFT_CAUDAL, RIGHT_CRANIAL, RIGHT_MIDDLE, RIGHT_CAUDAL, ACCESSORY = range(6)
LEFT_LOBES = (LEFT_CRANIAL, LEFT_CAUDAL)
FISSURE_MM = 0.5  # two layers of visceral pleura
_FAR = 99.0
_OBLIQUE, _RIGHT_CRANIAL_SLOPE = 0.62, -0.10


def septum_x(chest: Chest, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x of the mediastinal septum: it waves, and bulges left where the accessory lobe lies."""
    s, folds = chest.scale, chest.folds
    wave = np.sin(z / (27 * s) + y / (34 * s) + folds.septum_phase)
    caudal = 1 / (1 + np.exp((z - 25 * s) / (18 * s)))
    ventral = 1 / (1 + np.exp((y + 10 * s) / (14 * s)))
    return s * (2.5 * wave + 1.8 * folds.septum_mm * caudal * ventral)


def _wave(chest: Chest, at: Points) -> np.ndarray:
    _, y, x = at
    s, phase = chest.scale, chest.folds.fissure_phase
    return 3.0 * s * (np.sin(x / (17 * s) + phase) + 0.7 * np.sin(y / (21 * s) - 2 * phase))


def _oblique(chest: Chest, at: Points, shift_mm: float) -> np.ndarray:
    """Distance above the oblique fissure, which falls from the back to the diaphragm in front."""
    z, y, _ = at
    s = chest.scale
    height = z - (46 + shift_mm) * s - _OBLIQUE * (y - 16 * s) + _wave(chest, at)
    return height / np.hypot(1, _OBLIQUE)


def _right_cranial(chest: Chest, at: Points) -> np.ndarray:
    """Distance above the fissure between the right cranial and middle lobe."""
    z, y, _ = at
    s = chest.scale
    height = z - (62 + 0.6 * chest.folds.fissure_mm[2]) * s + 0.7 * _wave(chest, at)
    return height - _RIGHT_CRANIAL_SLOPE * (y - 16 * s)


def _accessory(chest: Chest, at: Points) -> np.ndarray:
    """Distance to the accessory lobe, a column between septum, vena cava and heart."""
    z, y, x = at
    s = chest.scale
    side = (np.hypot((x - 4 * s) / (31 * s), (y - 4 * s) / (33 * s)) - 1) * 31 * s
    return np.maximum(side, z - 42 * s)


def lobe_of(chest: Chest, at: Points) -> np.ndarray:
    """Lobe of each point, 0..5."""
    z, y, x = at
    folds = chest.folds
    left = np.where(
        _oblique(chest, at, folds.fissure_mm[0]) > 0, np.int8(LEFT_CRANIAL), np.int8(LEFT_CAUDAL)
    )
    upper = np.where(_right_cranial(chest, at) > 0, np.int8(RIGHT_CRANIAL), np.int8(RIGHT_MIDDLE))
    lower = np.where(_accessory(chest, at) < 0, np.int8(ACCESSORY), np.int8(RIGHT_CAUDAL))
    right = np.where(_oblique(chest, at, folds.fissure_mm[1]) > 0, upper, lower)
    return np.where(x > septum_x(chest, z, y), left, right)


def fissure_distance(chest: Chest, at: Points) -> np.ndarray:
    """Distance (mm, about) to the nearest fissure of the same side."""
    z, y, x = at
    folds = chest.folds
    left = np.abs(_oblique(chest, at, folds.fissure_mm[0]))
    right = _oblique(chest, at, folds.fissure_mm[1])
    cranial, accessory = np.abs(_right_cranial(chest, at)), np.abs(_accessory(chest, at))
    nearest = np.minimum(np.abs(right), np.where(right > 0, cranial, accessory))
    return np.where(x > septum_x(chest, z, y), left, nearest)


def fissure_share(chest: Chest, at: Points, h: float) -> np.ndarray:
    """Share of each voxel (edge `h` mm) that is pleura between two lobes."""
    return layer_coverage(fissure_distance(chest, at), FISSURE_MM, h)
