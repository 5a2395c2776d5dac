"""Vessel and airway trees grown into the lungs and laid down on a grid by volume.

Volume halving (after Kitaoka 1999 and Tawhai 2000): a cloud of leaves is cut at its median along
its main axis, each branch runs part of the way to its cloud's centroid. Radii follow Murray's law.
A tube is spread over the voxels as small parcels of volume, so that thin vessels keep their volume
at any voxel size.
"""

from dataclasses import dataclass

import numpy as np

from .lattice import Lattice

_PARCEL_MM = 1.0  # length of tube one ring of parcels stands for
_RINGS = tuple(np.sqrt((np.arange(4) + 0.5) / 4))  # each in the middle of a fourth of the area
_AROUND = 8


@dataclass(frozen=True)
class Branches:
    """Straight tubes: ends `[n, 3]` (z, y, x mm) and the number of leaves `[n]` each one feeds."""

    start: np.ndarray
    end: np.ndarray
    leaves: np.ndarray


def grow_tree(
    root: np.ndarray, leaves: np.ndarray, advance: float, rng: np.random.Generator
) -> Branches:
    """A tree from `root` `[3]` to `leaves` `[n, 3]`; `advance` is the step to each centroid."""
    found: list[tuple[np.ndarray, np.ndarray, int]] = []
    waiting = [(np.asarray(root, float), leaves)]
    while waiting:
        start, cloud = waiting.pop()
        centre = cloud.mean(0)
        reach = advance if len(cloud) > 1 else 1.0
        end = start + (centre - start) * reach + rng.normal(0, 1.0, 3)
        found.append((start, end, len(cloud)))
        if len(cloud) > 1:
            waiting += [(end, part) for part in _halves(cloud - centre, cloud, rng)]
    start, end, count = zip(*found, strict=True)
    return Branches(np.array(start), np.array(end), np.array(count))


def _halves(offsets: np.ndarray, cloud: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The cloud cut at the median of its first (sometimes second) principal axis."""
    _, axes = np.linalg.eigh(offsets.T @ offsets)
    along = offsets @ axes[:, -1 if rng.random() > 0.15 else -2]
    order = np.argsort(along, kind="stable")
    middle = (len(cloud) + 1) // 2
    return [cloud[order[:middle]], cloud[order[middle:]]]


def trunk(start: np.ndarray, end: np.ndarray, leaves: int) -> Branches:
    """One straight branch from `start` to `end` that feeds `leaves`."""
    return Branches(np.array([start]), np.array([end]), np.array([leaves]))


def murray_radius(branches: Branches, leaf_radius_mm: float) -> np.ndarray:
    """Radius `[n]` with r^3 proportional to the leaves fed (Murray 1926)."""
    return leaf_radius_mm * np.cbrt(branches.leaves)


def select(branches: Branches, keep: np.ndarray) -> Branches:
    """The branches where `keep`."""
    return Branches(branches.start[keep], branches.end[keep], branches.leaves[keep])


def shifted(branches: Branches, offset: np.ndarray) -> Branches:
    """The branches moved by `offset` `[n, 3]` mm: an airway beside its artery."""
    return Branches(branches.start + offset, branches.end + offset, branches.leaves)


def tube_fraction(
    lattice: Lattice, branches: Branches, radius: np.ndarray, inner: np.ndarray | None = None
) -> np.ndarray:
    """Share of each voxel `[z, y, x]` taken by tubes, or by their walls outside radius `inner`."""
    inner = np.zeros_like(radius) if inner is None else inner
    centre, branch = _along(branches)
    points, volume = [], []
    for ring, turn in zip(_RINGS, (0.0, 0.5, 0.25, 0.75), strict=True):
        place, share = _ring(branches, branch, radius, inner, ring, turn)
        points.append((centre[:, None] + place).reshape(-1, 3))
        volume.append(np.repeat(share, place.shape[1]))
    return _deposit(lattice, np.concatenate(points), np.concatenate(volume))


def _along(branches: Branches) -> tuple[np.ndarray, np.ndarray]:
    """Points `[m, 3]` about every parcel length on the centre lines, and their branch `[m]`."""
    length = np.linalg.norm(branches.end - branches.start, axis=1)
    pieces = np.maximum(1, np.ceil(length / _PARCEL_MM).astype(int))
    branch = np.repeat(np.arange(len(pieces)), pieces)
    step = np.arange(len(branch)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    t = ((step + 0.5) / pieces[branch])[:, None]
    return branches.start[branch] * (1 - t) + branches.end[branch] * t, branch


def _ring(branches, branch, radius, inner, ring: float, turn: float):
    """Offsets `[m, 8, 3]` of one ring of parcels, and each parcel's volume `[m]`, mm^3."""
    axis = branches.end - branches.start
    length = np.linalg.norm(axis, axis=1)
    axis = axis / np.maximum(length, 1e-6)[:, None]
    aside = np.cross(axis, np.where(np.abs(axis[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]]))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    across = np.cross(axis, aside)
    angle = 2 * np.pi * (np.arange(_AROUND) + turn) / _AROUND
    at = np.sqrt(inner**2 + ring**2 * (radius**2 - inner**2))
    unit = aside[:, None] * np.cos(angle)[:, None] + across[:, None] * np.sin(angle)[:, None]
    pieces = np.bincount(branch, minlength=len(length))
    piece = np.pi * (radius**2 - inner**2) * length / np.maximum(pieces, 1)
    return (unit * at[:, None, None])[branch], (piece / (len(_RINGS) * _AROUND))[branch]


def _deposit(lattice: Lattice, points: np.ndarray, volume_mm3: np.ndarray) -> np.ndarray:
    """Parcels `[n, 3]` added to their voxels; what overfills a voxel is cut at 1."""
    step = np.asarray(lattice.spacing_zyx_mm)
    at = np.rint((points - np.asarray(lattice.first_zyx_mm)) / step).astype(int)
    inside = ((at >= 0) & (at < np.asarray(lattice.shape_zyx))).all(1)
    flat = np.ravel_multi_index(tuple(at[inside].T), lattice.shape_zyx)
    total = np.bincount(flat, volume_mm3[inside], minlength=int(np.prod(lattice.shape_zyx)))
    share = np.minimum(total / np.prod(step), 1.0)
    return share.reshape(lattice.shape_zyx).astype(np.float32)
