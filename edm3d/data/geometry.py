"""Where voxels lie: grids, working grids and resampling in scanner coordinates.

Shapes: a volume is `[z, y, x]` in LPS order (z to superior, y to posterior, x to left). Its affine
maps a voxel index `(x, y, z, 1)` to LPS millimetres and may be oblique. Read next:
`edm3d.data.volumes` (reading files), `edm3d.data.projection` (X-rays of a volume).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edm3d.errors import InputError

AIR_HU = -1024.0
_SPACING_LIMITS_MM = (0.05, 50.0)
_MAX_SHEAR_COSINE = 0.01  # about half a degree: rounding of headers stays far below it
MAX_VOXELS = 2**28  # 512 x 512 x 1024: 1 GiB as float32, 1.4 GB while it is read and checked


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a `[z, y, x]` array lie; `affine_lps` is `[4, 4]` for (x, y, z, 1)."""

    shape_zyx: tuple[int, int, int]
    affine_lps: np.ndarray

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        return float(z), float(y), float(x)


@dataclass(frozen=True, eq=False)
class Volume:
    """Values `[z, y, x]` on their grid."""

    values: np.ndarray
    grid: Grid


def same_grid(first: Grid, second: Grid, *, tolerance_mm: float = 1e-3) -> bool:
    """Whether two grids have one shape and place every voxel alike within `tolerance_mm`."""
    if first.shape_zyx != second.shape_zyx:
        return False
    reach = np.array([*first.shape_zyx[::-1], 1.0])
    return bool(np.all(np.abs(first.affine_lps - second.affine_lps)[:3] @ reach < tolerance_mm))


def working_grid(grid: Grid, spacing_mm: float) -> Grid:
    """The isotropic grid of `spacing_mm` that covers the extent of `grid`, about the same centre.

    Directions are kept; each axis gets the fewest voxels that reach both outer faces.
    """
    if not (np.isfinite(spacing_mm) and spacing_mm > 0):
        raise InputError(f"spacing_mm is {spacing_mm}; give a positive number of millimetres")
    old_shape = np.array(grid.shape_zyx[::-1], np.float64)
    old_spacing = np.array(grid.spacing_zyx_mm[::-1])
    shape = np.maximum(1, np.ceil(old_shape * old_spacing / spacing_mm - 1e-3)).astype(int)
    axes = grid.affine_lps[:3, :3] / old_spacing * spacing_mm
    centre = grid.affine_lps[:3, :3] @ ((old_shape - 1) / 2) + grid.affine_lps[:3, 3]
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = centre - axes @ ((shape - 1) / 2)
    return Grid((int(shape[2]), int(shape[1]), int(shape[0])), affine)


def _index_map(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """`matrix [3, 3]`, `offset [3]`: the source index (z, y, x) of a target index (z, y, x)."""
    xyz = np.linalg.inv(source.affine_lps) @ target.affine_lps
    matrix, offset = xyz[:3, :3][::-1, ::-1], xyz[:3, 3][::-1]
    matrix = np.where(np.abs(matrix) * max(target.shape_zyx) < 1e-6, 0.0, matrix)
    return matrix, offset


def _outside(source: Grid, matrix: np.ndarray, offset: np.ndarray, target: Grid) -> np.ndarray:
    """Boolean, broadcastable to `target`: the voxel's centre lies outside the source's voxels."""
    nz, ny, nx = target.shape_zyx
    steps = np.ogrid[:nz, :ny, :nx]
    outside = np.zeros((1, 1, 1), bool)
    for size, row, start in zip(source.shape_zyx, matrix, offset, strict=True):
        place = start + sum(
            factor * step for factor, step in zip(row, steps, strict=True) if factor
        )
        outside = outside | (place < -0.5 - 1e-6) | (place > size - 0.5 + 1e-6)
    return outside


def coverage(source: Grid, target: Grid) -> float:
    """The share of `target`'s voxels whose centre lies inside `source`."""
    outside = _outside(source, *_index_map(source, target), target)
    return 1.0 - float(np.broadcast_to(outside, target.shape_zyx).mean())


def _smoothed(values: np.ndarray, source: Grid, target: Grid, dtype) -> np.ndarray:
    """Values blurred so that their resolution is that of the coarser target voxel (FWHM rule)."""
    from scipy import ndimage

    ratio = min(target.spacing_zyx_mm) / np.array(source.spacing_zyx_mm)
    sigma = np.sqrt(np.maximum(ratio**2 - 1.0, 0.0)) / 2.3548
    return ndimage.gaussian_filter(values, sigma, output=dtype, mode="nearest", truncate=3.0)


def resample(
    volume: Volume,
    grid: Grid,
    *,
    order: int = 1,
    fill: float = AIR_HU,
    antialias: bool = False,
    dtype: type | None = None,
) -> np.ndarray:
    """The volume's values on `grid` in scanner coordinates, `[z, y, x]`, in their own dtype or one.

    Linear by default; labels go through it one at a time, as shares of 0..1. Half a voxel beyond
    the outermost centres still belongs to the volume and takes the edge's value; farther out is
    `fill`.
    """
    from scipy import ndimage

    dtype = dtype or volume.values.dtype.type
    if same_grid(volume.grid, grid):
        return volume.values.astype(dtype)
    matrix, offset = _index_map(volume.grid, grid)
    values = _smoothed(volume.values, volume.grid, grid, dtype) if antialias else volume.values
    diagonal = np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    result = ndimage.affine_transform(
        values,
        np.diag(matrix) if diagonal else matrix,
        offset,  # pyright: ignore[reportArgumentType]  (an array is documented)
        output_shape=grid.shape_zyx,
        output=dtype,
        order=order,
        mode="nearest",
        prefilter=order > 1,
    )
    outside = _outside(volume.grid, matrix, offset, grid)
    result[np.broadcast_to(outside, result.shape)] = fill
    return result


def check_size(shape: Sequence[int], name: object) -> None:
    """Raises `InputError` for more than `MAX_VOXELS` voxels; to be asked before any allocation."""
    voxels = math.prod(int(n) for n in shape)
    if voxels > MAX_VOXELS:
        shown = " x ".join(str(n) for n in shape)
        raise InputError(
            f"{name} claims {shown} voxels ({voxels:.3g}); at most {MAX_VOXELS} are read "
            "(512 x 512 x 1024): crop or resample it, or repair its header"
        )


def check_affine(affine: np.ndarray, name: object) -> None:
    """Raises `InputError` unless voxels are finite, of a plausible size and perpendicular."""
    if not np.all(np.isfinite(affine)):
        raise InputError(f"affine of {name} holds NaN or infinity; write the scan's true affine")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _SPACING_LIMITS_MM
    if np.any(spacing < low) or np.any(spacing > high):
        shown = " x ".join(f"{s:g}" for s in spacing)
        raise InputError(f"voxel size of {name} is {shown} mm; it must lie in {low:g}..{high:g} mm")
    axes = affine[:3, :3] / spacing
    shear = np.max(np.abs(axes.T @ axes - np.eye(3)))
    if shear > _MAX_SHEAR_COSINE:
        raise InputError(
            f"affine of {name} is sheared (cosine {shear:.3f} between axes); resample it to "
            "perpendicular axes, for example after a gantry tilt"
        )


def lps_turn(shape_xyz: Sequence[int], affine_lps: np.ndarray) -> tuple[Grid, np.ndarray]:
    """The grid in LPS order, and nibabel's orientation array that brings the stored axes to it."""
    from nibabel import orientations

    turn = orientations.io_orientation(affine_lps)
    x, y, z = (int(shape_xyz[axis]) for axis in np.argsort(turn[:, 0]))
    return Grid((z, y, x), affine_lps @ orientations.inv_ornt_aff(turn, tuple(shape_xyz))), turn


def as_stored(values_zyx: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The view `[i, j, k]` of values `[z, y, x]` in LPS order, in which a file's axes run.

    What is written to it comes to its place in LPS; `turn` as of `lps_turn`.
    """
    view = values_zyx.transpose(2, 1, 0).transpose(turn[:, 0].astype(int))
    return view[tuple(slice(None, None, int(sign)) for sign in turn[:, 1])]
