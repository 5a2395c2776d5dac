"""Overlap and surface distance of two masks of one organ.

Shape key: masks `[z, y, x]`, anything non-zero is inside; `s` surface voxels. For one lung of two
pass `labels == 1`. Degenerate input: the rule of the package. An empty mask is usable: the Dice of
two empty masks and every distance to an empty one are NaN.

A surface is the mask's voxels that share a face with the background. Where the volume's edge cuts
the organ there is no surface, for the organ goes on. Distances join voxel centres, in mm.

References:
  Heimann et al. 2009, IEEE Trans Med Imaging 28:1251 (average symmetric surface distance).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, spatial


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances between two surfaces in mm; NaN where a mask has no surface.

    `mean_mm` is over the voxels of both surfaces (average symmetric surface distance);
    `hausdorff95_mm` the greater of the two directed 95th percentiles; `hausdorff_mm` the greatest
    distance of all.
    """

    measured_voxels: int
    reference_voxels: int
    mean_mm: float
    hausdorff95_mm: float
    hausdorff_mm: float


def dice(measured: np.ndarray, reference: np.ndarray) -> float:
    """2 |A ∩ B| / (|A| + |B|); NaN where both are empty."""
    a, b = _masks(measured, reference)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def surface_distance(
    measured: np.ndarray, reference: np.ndarray, spacing_zyx_mm: tuple[float, float, float]
) -> SurfaceDistance:
    """Mean, 95th percentile and greatest distance between the surfaces of two masks."""
    surfaces = [surface_mm(m, spacing_zyx_mm) for m in _masks(measured, reference)]
    sizes = [len(s) for s in surfaces]
    if min(sizes) == 0:
        return SurfaceDistance(*sizes, *(float("nan"),) * 3)
    there, back = directed_mm(*surfaces), directed_mm(*surfaces[::-1])
    both = np.concatenate([there, back])
    return SurfaceDistance(
        measured_voxels=sizes[0],
        reference_voxels=sizes[1],
        mean_mm=float(both.mean()),
        hausdorff95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        hausdorff_mm=float(both.max()),
    )


def surface_mm(mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> np.ndarray:
    """Positions `[s, 3]` of the mask's surface voxels in mm from the first voxel."""
    spacing = np.asarray(spacing_zyx_mm, np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"spacing_zyx_mm is {spacing_zyx_mm}; need three positive lengths")
    inside = mask != 0
    inner = np.asarray(ndimage.binary_erosion(inside, border_value=1), bool)
    return np.argwhere(inside & ~inner) * spacing


def directed_mm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of each of `a` `[s, 3]` to the nearest of `b`, `[s]`."""
    return spatial.KDTree(b).query(a)[0]


def _masks(measured: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if measured.shape != reference.shape or measured.ndim != 3:
        raise ValueError(
            f"masks have shapes {measured.shape} and {reference.shape}; need one [z, y, x]"
        )
    if not (np.isfinite(measured).all() and np.isfinite(reference).all()):
        raise ValueError("a mask holds NaN or infinity")
    return measured != 0, reference != 0
