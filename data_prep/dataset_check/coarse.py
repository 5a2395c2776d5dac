"""A scan on coarse voxels, and what lies where on it: trunk, outside air, couch, spine, cut lung.

Shapes: `hu [z, y, x]` in LPS order, `spacing` in mm (z, y, x).
"""

import numpy as np
from scipy import ndimage

from edm3d.data.volumes import Volume

STEP_MM = 4.0  # blocks of voxels up to this size are averaged
BODY_HU = -500.0  # half way between air and soft tissue
THIN_MM = 9.0  # opening radius: shells of a couch are thinner, a chest is thicker
SKIN_MM = 12.0  # mixed voxels and clothes lie this near to the trunk
AIR_LIMIT_HU = -700.0  # outside air lies below, and all couch shells above
BONE_HU = 250.0
LUNG_RANGE_HU = (-950.0, -300.0)  # aerated lung, neither free air nor a partly filled edge
LUNG_RADIUS_MM = 5.0  # opening radius: mixed voxels at a skin are thinner

Spacing = tuple[float, float, float]


def coarse_volume(volume: Volume) -> tuple[np.ndarray, Spacing]:
    """Values averaged over blocks of at most `STEP_MM` (float32), and the blocks' size."""
    factors = [max(1, int(STEP_MM / s + 1e-6)) for s in volume.grid.spacing_zyx_mm]
    factors = [min(k, n) for k, n in zip(factors, volume.grid.shape_zyx, strict=True)]
    values = volume.values
    for axis, factor in enumerate(factors):  # z first: of that nothing is copied
        count = values.shape[axis] // factor
        whole = values[(slice(None),) * axis + (slice(count * factor),)]
        parts = (*values.shape[:axis], count, factor, *values.shape[axis + 1 :])
        values = whole.reshape(parts).mean(axis=axis + 1, dtype=np.float32)
    z, y, x = (s * k for s, k in zip(volume.grid.spacing_zyx_mm, factors, strict=True))
    return values, (z, y, x)


def _depth_mm(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance of each voxel of `mask` to the nearest one outside; infinite where all is inside."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing))


def _opened(mask: np.ndarray, radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    core = _depth_mm(mask, spacing) > radius_mm
    return _depth_mm(~core, spacing) <= radius_mm if core.any() else core


def trunk(hu: np.ndarray, spacing: Spacing) -> np.ndarray:
    """The largest thick piece of the body, lungs included, without couch and clothes."""
    filled = np.stack([np.asarray(ndimage.binary_fill_holes(level > BODY_HU)) for level in hu])
    thick = _opened(filled, THIN_MM, spacing)
    labels = np.zeros(thick.shape, np.int32)
    ndimage.label(thick, output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (labels == np.argmax(sizes)) & thick


def around(body: np.ndarray, spacing: Spacing) -> np.ndarray:
    """What lies outside the trunk and its skin."""
    return _depth_mm(~body, spacing) > SKIN_MM


def couch_side(hu: np.ndarray, body: np.ndarray, spacing: Spacing) -> float:
    """On which side of the trunk other matter lies: 1 all posterior, -1 all anterior.

    0 where there is less of it than a couch shell of 1 mm under half of the trunk.
    """
    matter = around(body, spacing) & (hu > AIR_LIMIT_HU)
    columns = np.nonzero(body.any(axis=(0, 1)))[0]
    if not columns.size:
        return 0.0
    matter = matter[:, :, columns[0] : columns[-1] + 1]
    centre = np.average(np.arange(body.shape[1]), weights=body.sum(axis=(0, 2)))
    rows = np.arange(body.shape[1])
    anterior = int(np.count_nonzero(matter[:, rows < centre]))
    posterior = int(np.count_nonzero(matter[:, rows > centre]))
    least = 0.5 * body.shape[0] * len(columns) / spacing[1]
    total = anterior + posterior
    return (posterior - anterior) / total if total > least else 0.0


def spine_side(hu: np.ndarray, body: np.ndarray) -> float:
    """How far posterior the midline's bone lies, in half depths of the trunk; below 0 in front.

    NaN where there is too little bone to say.
    """
    rows, columns = (np.nonzero(body.any(axis=axes))[0] for axes in ((0, 2), (0, 1)))
    if not rows.size:
        return float("nan")
    middle, sixth = columns.mean(), len(columns) / 6
    bone = (hu > BONE_HU) & body
    bone = bone[:, :, max(0, int(middle - sixth)) : int(middle + sixth) + 1].sum(axis=(0, 2))
    if bone.sum() < 0.002 * body.sum():
        return float("nan")
    at = np.average(np.arange(len(bone)), weights=bone)
    return float((at - rows.mean()) / (len(rows) / 2))


def cut_lung_cm2(hu: np.ndarray, spacing: Spacing) -> dict[str, float]:
    """Area of lung that each side of the image cuts, in cm2: aerated, with tissue all around."""
    z, y, x = spacing
    faces = {
        "right": (hu[:, :, 0], (z, y)),
        "left": (hu[:, :, -1], (z, y)),
        "anterior": (hu[:, 0], (z, x)),
        "posterior": (hu[:, -1], (z, x)),
    }
    return {name: _enclosed_cm2(face, size) for name, (face, size) in faces.items()}


def _enclosed_cm2(face: np.ndarray, size_mm: tuple[float, float]) -> float:
    low, high = LUNG_RANGE_HU
    inside = np.asarray(ndimage.binary_fill_holes(face > high)) & (face > low) & (face < high)
    thick = _opened(inside, LUNG_RADIUS_MM, size_mm)
    return float(np.count_nonzero(thick) * np.prod(size_mm) / 100)
