"""A scan's lung mask: read, held against its CT, and brought to a working grid.

A mask is stored on its CT's own grid, 0 outside, 1 right and 2 left lung. Another grid is refused
and not resampled: it is as likely another scan's mask, and half of a lung that silently falls
outside would be taken for no lung. Labels that say left where right is are refused too: both lungs'
volumes would go to the wrong side. Read next: `edm3d.data.shards`.
"""

import itertools
from pathlib import Path

import numpy as np

from edm3d.data.geometry import Grid, Volume, resample, same_grid
from edm3d.data.volumes import read_mask
from edm3d.errors import InputError

LABELS = (0, 1, 2)
# Programs round affines to float32, DICOM positions to a hundredth of a millimetre or so.
TOLERANCE_MM = 0.1
_SHOWN = 6


def check_mask_grid(mask: Path, mask_grid: Grid, ct: Path, ct_grid: Grid) -> None:
    """Raises `InputError` unless the mask has its CT's shape and lies on it to `TOLERANCE_MM`."""
    if same_grid(mask_grid, ct_grid, tolerance_mm=TOLERANCE_MM):
        return
    if mask_grid.shape_zyx != ct_grid.shape_zyx:
        own, other = (" x ".join(map(str, g.shape_zyx)) for g in (mask_grid, ct_grid))
        off = f"is {own} voxels (z y x) and its CT {ct} {other}"
    else:
        off = f"lies up to {_farthest_mm(mask_grid, ct_grid):.3g} mm beside its CT {ct}"
    raise InputError(
        f"lung mask {mask} {off}: it is on another grid; give this scan's mask on the CT's grid"
    )


def _farthest_mm(first: Grid, second: Grid) -> float:
    """The largest distance between the same corner of two grids of one shape."""
    x, y, z = (n - 1 for n in first.shape_zyx[::-1])
    corners = np.array([[*c, 1] for c in itertools.product((0, x), (0, y), (0, z))])
    apart = corners @ (first.affine_lps - second.affine_lps).T
    return float(np.linalg.norm(apart[:, :3], axis=1).max())


def read_lung_mask(path: Path, ct: Path, ct_grid: Grid) -> Volume:
    """The uint8 labels of the mask at `path`, on the grid of its CT at `ct`.

    Raises `InputError` for another grid than the CT's, a label that is not of `LABELS`, no lung, a
    right lung to the left of the left one.
    """
    mask = read_mask(path)
    check_mask_grid(path, mask.grid, ct, ct_grid)
    # Plane by plane: bincount widens what it is given eightfold.
    counts = sum(np.bincount(plane.ravel(), minlength=256) for plane in mask.values)
    found = np.nonzero(np.asarray(counts))[0].tolist()
    if not set(found) <= set(LABELS):
        shown = ", ".join(map(str, found[:_SHOWN])) + (", ..." if len(found) > _SHOWN else "")
        raise InputError(f"lung mask {path} holds labels {shown}; use 0 outside, 1 right, 2 left")
    if found == [0]:
        raise InputError(
            f"lung mask {path} is 0 everywhere; give a mask with lung (1 right, 2 left) or leave "
            "the cell lung_mask empty"
        )
    _check_sides(path, mask)
    return mask


def _check_sides(path: Path, mask: Volume) -> None:
    """Raises `InputError` where label 1 lies to the left of label 2, both there: swapped, mirrored.

    However injured the lungs, the centroid of the right one is to the right of the left one's. A
    mask of one lung is not judged: its side cannot be told by the mask alone.
    """
    right_mm, left_mm = (_centroid_x_mm(mask, label) for label in LABELS[1:])
    if right_mm is not None and left_mm is not None and right_mm >= left_mm:
        raise InputError(
            f"lung mask {path} has label 1 (right) {right_mm - left_mm:.3g} mm to the left of "
            "label 2 (left): its labels are swapped or it is mirrored; use 1 right, 2 left"
        )


def _centroid_x_mm(mask: Volume, label: int) -> float | None:
    """x in LPS (to the patient's left) of a label's centroid; None without a voxel of it."""
    total = np.zeros(4)  # sums of x, y, z indices, and the number of voxels
    for z, plane in enumerate(mask.values):
        inside = plane == label
        columns, rows = (np.count_nonzero(inside, axis=axis) for axis in (0, 1))
        number = columns.sum()
        total += columns @ np.arange(len(columns)), rows @ np.arange(len(rows)), number * z, number
    if not total[3]:
        return None
    return float(mask.grid.affine_lps[0] @ (total / total[3]))


def labels_on(mask: Volume, grid: Grid, *, antialias: bool) -> np.ndarray:
    """The labels on a grid, uint8: where a label fills half of the (interpolated) voxel.

    The nearest voxel would do for finer grids only: from 5 to 10 mm every centre lies half way
    between two voxels, the nearest is always the same one of them, and the lung moves by 2.5 mm.
    """
    labels = np.zeros(grid.shape_zyx, np.uint8)
    for label in LABELS[1:]:
        inside = Volume((mask.values == label).view(np.uint8), mask.grid)
        share = resample(inside, grid, fill=0.0, antialias=antialias, dtype=np.float32)
        labels[share >= 0.5] = label
    return labels
