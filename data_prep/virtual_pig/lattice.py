"""Axis-aligned grids in mm, soft coverage, interpolation and random fields.

Keys: z y x voxels. Points are a (z, y, x) tuple of arrays in mm that broadcast together.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

Points = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Lattice:
    """Voxel centres `first + index * spacing`, mm, every tuple in z, y, x order."""

    first_zyx_mm: tuple[float, float, float]
    spacing_zyx_mm: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_zyx_mm)) / 1000.0

    @property
    def size_mm(self) -> float:
        """Edge of the cube with a voxel's volume: the width of a soft edge."""
        return float(np.prod(self.spacing_zyx_mm)) ** (1 / 3)

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxel centres along z, y and x, float32 mm."""
        z, y, x = (
            (first + step * np.arange(n)).astype(np.float32)
            for first, step, n in zip(
                self.first_zyx_mm, self.spacing_zyx_mm, self.shape_zyx, strict=True
            )
        )
        return z, y, x

    def open_mesh(self) -> Points:
        """Coordinates as `[z, 1, 1]`, `[1, y, 1]`, `[1, 1, x]`."""
        z, y, x = self.axes()
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def points_at(self, voxels: tuple[np.ndarray, ...]) -> Points:
        """Coordinates of listed voxels (`np.nonzero` order), each `[n]`."""
        z, y, x = (axis[index] for axis, index in zip(self.axes(), voxels, strict=True))
        return z, y, x

    def index(self, points: Points) -> list[np.ndarray]:
        """Fractional voxel indices of `points`."""
        return [
            (p - first) / step
            for p, first, step in zip(points, self.first_zyx_mm, self.spacing_zyx_mm, strict=True)
        ]


def lattice_over(low_zyx_mm, high_zyx_mm, spacing_zyx_mm) -> Lattice:
    """The lattice whose voxels tile the box from `low` upwards and reach at least `high`."""
    low, high, step = (np.asarray(v, float) for v in (low_zyx_mm, high_zyx_mm, spacing_zyx_mm))
    step = np.broadcast_to(step, 3)
    shape = np.ceil((high - low) / step - 1e-6).astype(int)
    return Lattice(tuple((low + step / 2).tolist()), tuple(step.tolist()), tuple(shape.tolist()))


def coverage(signed_distance_mm: np.ndarray, voxel_mm: float) -> np.ndarray:
    """Fraction of a voxel inside the region of negative distance; exact for planes in the mean."""
    return np.clip(0.5 - signed_distance_mm / np.float32(voxel_mm), 0, 1).astype(np.float32)


def layer_coverage(distance_mm: np.ndarray, thickness_mm: float, voxel_mm: float) -> np.ndarray:
    """Fraction of a voxel taken by a layer around distance 0, which may be thinner than it."""
    half, reach = thickness_mm / 2, voxel_mm / 2
    overlap = np.minimum(distance_mm + reach, half) - np.maximum(distance_mm - reach, -half)
    return (np.maximum(overlap, 0) / voxel_mm).astype(np.float32)


def paint(hu: np.ndarray, cover: np.ndarray | float, value: np.ndarray | float) -> np.ndarray:
    """`hu` with `value` laid over it where `cover` (0..1) says."""
    return hu + cover * (value - hu)


def smooth_step(x: np.ndarray) -> np.ndarray:
    """Cubic ramp from 0 (x <= 0) to 1 (x >= 1)."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def interpolation(lattice: Lattice, points: Points) -> sparse.csr_array:
    """Trilinear weights `[points, voxels]`, nearest outside: one product reads many fields."""
    corner, fraction = [], []
    for at, n in zip(lattice.index(points), lattice.shape_zyx, strict=True):
        at = np.clip(np.ravel(at), 0, n - 1)
        base = np.minimum(at.astype(np.int32), max(n - 2, 0))
        corner.append(base)
        fraction.append((at - base).astype(np.float32))
    _, ny, nx = lattice.shape_zyx
    first = (corner[0] * ny + corner[1]) * nx + corner[2]
    steps = np.array([(i * ny + j) * nx + k for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    fz, fy, fx = (np.stack([1 - f, f], -1) for f in fraction)
    weights = (fz[:, :, None, None] * fy[:, None, :, None] * fx[:, None, None, :]).reshape(-1)
    columns = np.minimum(first[:, None] + steps, np.prod(lattice.shape_zyx) - 1)
    rows = np.arange(0, 8 * len(first) + 1, 8)
    shape = (len(first), int(np.prod(lattice.shape_zyx)))
    return sparse.csr_array((weights, columns.reshape(-1).astype(np.int32), rows), shape=shape)


def sample(fields: list[np.ndarray], weights: sparse.csr_array) -> list[np.ndarray]:
    """Each field `[z, y, x]` at the points of `weights`, `[n]` float32."""
    stacked = np.stack([f.reshape(-1) for f in fields], -1).astype(np.float32, copy=False)
    return list(np.ascontiguousarray((weights @ stacked).T))


def random_field(lattice: Lattice, correlation_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian field `[z, y, x]`, mean 0, variance 1, Gaussian correlation."""
    white = rng.standard_normal(lattice.shape_zyx, dtype=np.float32)
    sigma = [correlation_mm / step / np.sqrt(2) for step in lattice.spacing_zyx_mm]
    field = ndimage.gaussian_filter(white, sigma, mode="reflect", truncate=3.0)
    return (field - field.mean()) / field.std()


def fill_from_nearest(field: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`field` `[..., z, y, x]` with unknown voxels taken from the nearest known one."""
    index = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return field[(..., *index)]
