"""CT volumes with their place in the scanner: reading, checking, resampling and writing NIfTI.

Shapes: a volume is `[z, y, x]` in LPS order (z to superior, y to posterior, x to left). Its affine
maps a voxel index `(x, y, z, 1)` to LPS millimetres and may be oblique. Read next:
`edm3d.data.projection` (X-rays of a volume), `edm3d.data.records` (what becomes of a pair).
"""

import contextlib
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm3d.errors import InputError

AIR_HU = -1024.0
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPACING_LIMITS_MM = (0.05, 50.0)
_MAX_SHEAR_COSINE = 0.01  # about half a degree: rounding of headers stays far below it
_SLAB = 32  # slices that are read and scaled at once
_READ_FAULTS = (OSError, EOFError, ValueError, TypeError, OverflowError, MemoryError, zlib.error)


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


def _refuse_other_formats(path: Path) -> None:
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; a CT is one NIfTI file here (.nii, .nii.gz): convert DICOM first"
        )
    if not path.exists():
        raise InputError(f"{path} does not exist; correct the path")
    with open(path, "rb") as file:
        head = file.read(132)
    if head[128:132] == b"DICM":
        raise InputError(f"{path} is DICOM; convert the series to NIfTI (.nii.gz) first")


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _load_nifti(path: Path):
    """The nibabel image, its array as stored on disk not yet read."""
    import nibabel
    from nibabel import imageglobals
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    _refuse_other_formats(path)
    try:
        with _silenced(imageglobals.logger):  # what it logs, it raises too
            image = nibabel.load(path, keep_file_open=True)  # a .gz is read on, not anew
    except (ImageFileError, HeaderDataError, *_READ_FAULTS) as error:
        fault = " ".join(str(error).split())  # nibabel tells some faults in several lines
        raise InputError(
            f"{path} is not a readable NIfTI file ({fault}); give .nii or .nii.gz"
        ) from error
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one too
        raise InputError(f"{path} is {type(image).__name__}; convert it to NIfTI (.nii.gz)")
    return image


def _check_affine(affine: np.ndarray, path: Path) -> None:
    if not np.all(np.isfinite(affine)):
        raise InputError(f"affine of {path} holds NaN or infinity; write the scan's true affine")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _SPACING_LIMITS_MM
    if np.any(spacing < low) or np.any(spacing > high):
        shown = " x ".join(f"{s:g}" for s in spacing)
        raise InputError(f"voxel size of {path} is {shown} mm; it must lie in {low:g}..{high:g} mm")
    axes = affine[:3, :3] / spacing
    shear = np.max(np.abs(axes.T @ axes - np.eye(3)))
    if shear > _MAX_SHEAR_COSINE:
        raise InputError(
            f"affine of {path} is sheared (cosine {shear:.3f} between axes); resample it to "
            "perpendicular axes, for example after a gantry tilt"
        )


def _affine_lps(image, path: Path) -> np.ndarray:
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise InputError(
            f"affine of {path} is unset (sform and qform codes are 0), so left and right are "
            "unknown; write the scan's true affine"
        )
    affine = _RAS_TO_LPS @ np.asarray(image.affine, np.float64)
    _check_affine(affine, path)
    return affine


def _check_shape(image, path: Path) -> None:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if image.get_data_dtype().fields is not None:
        raise InputError(f"{path} has several components a voxel (colour?); give one value a voxel")
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path} has shape {tuple(image.shape)}; give one 3-D volume")


def _grid_and_turn(image, path: Path) -> tuple[Grid, np.ndarray]:
    """The grid in LPS order, and nibabel's orientation array that brings the stored axes to it."""
    from nibabel import orientations

    _check_shape(image, path)
    affine, shape = _affine_lps(image, path), image.shape[:3]
    turn = orientations.io_orientation(affine)
    x, y, z = (int(shape[axis]) for axis in np.argsort(turn[:, 0]))
    return Grid((z, y, x), affine @ orientations.inv_ornt_aff(turn, shape)), turn


def _as_stored(values: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """A view of `[z, y, x]` LPS values in the file's order of axes: writing to it fills them."""
    axes, flips = turn[:, 0].astype(int), turn[:, 1]
    view = values.transpose(2, 1, 0).transpose(axes)
    return view[tuple(slice(None, None, -1 if flip < 0 else 1) for flip in flips)]


def _read(path: Path, dtype) -> Volume:
    """The file's scaled values as `dtype`, axes re-ordered and flipped to the closest LPS ones.

    It is read slab by slab: beside the values themselves only a part of the file is in memory.
    """
    image = _load_nifti(path)
    grid, turn = _grid_and_turn(image, path)
    try:
        values = np.empty(grid.shape_zyx, dtype)
        stored = _as_stored(values, turn)
        for start in range(0, stored.shape[2], _SLAB):
            slab = np.asarray(image.dataobj[:, :, start : start + _SLAB], dtype)
            stored[:, :, start : start + _SLAB] = slab.reshape(*slab.shape[:3])
    except _READ_FAULTS as error:
        fault = " ".join(str(error).split())
        raise InputError(f"{path} breaks off ({fault}); copy the file again") from error
    return Volume(values, grid)


def read_grid(path: str | os.PathLike) -> Grid:
    """The grid of a NIfTI volume in LPS order, from its header alone."""
    return _grid_and_turn(_load_nifti(Path(path)), Path(path))[0]


def read_ct(path: str | os.PathLike) -> Volume:
    """A chest CT in float32 HU from NIfTI; padding below -1024 becomes -1024.

    Raises `InputError` for what is no file, no NIfTI, not 3-D, without a usable affine, or no CT.
    """
    volume = _read(Path(path), np.float32)
    check_hu(volume, str(path))
    np.maximum(volume.values, np.float32(AIR_HU), out=volume.values)
    return volume


def read_mask(path: str | os.PathLike) -> Volume:
    """A label volume as uint8 from NIfTI."""
    volume = _read(Path(path), np.float32)
    with np.errstate(invalid="ignore"):
        labels = volume.values.astype(np.uint8)
    wrong = labels != volume.values
    if wrong.any():
        shown = ", ".join(f"{v:g}" for v in np.unique(volume.values[wrong])[:3])
        raise InputError(f"mask {path} holds {shown}; labels are whole numbers from 0 to 255")
    return Volume(labels, volume.grid)


def check_hu(volume: Volume, name: str) -> None:
    """Raises `InputError` unless the values look like a chest CT in Hounsfield units."""
    values = volume.values
    if values.ndim != 3:
        raise InputError(f"{name} has shape {values.shape}; give one 3-D volume")
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(f"{name} holds NaN or infinity in {bad} voxels; give finite HU")
    low, high = float(values.min()), float(values.max())
    _check_range(name, low, high)
    airy = float(np.mean(values < -300.0))
    if airy < 0.002:
        raise InputError(
            f"{name} has {100 * airy:.2f} % of its voxels below -300 HU; a chest CT holds air and "
            "lung: check the rescale intercept"
        )


def _check_range(name: str, low: float, high: float) -> None:
    shown = f"values of {name} run from {low:g} to {high:g}"
    if low >= 0 and high <= 255:
        raise InputError(f"{shown}, an 8-bit picture; give Hounsfield units (air near -1000)")
    if low > -200:
        raise InputError(
            f"{shown}, without air; give Hounsfield units (is the rescale intercept -1024 missing?)"
        )
    if high < -500:
        raise InputError(f"{shown}, without tissue; give Hounsfield units (soft tissue near 0..80)")
    if low < -32768 or high > 32767:
        raise InputError(f"{shown}; Hounsfield units fit 16 bits: check slope and intercept")


def write_nifti(path: str | os.PathLike, values_zyx: np.ndarray, grid: Grid) -> None:
    """Writes `[z, y, x]` int16, float32 or uint8 values as .nii.gz, sform = qform, atomically."""
    import nibabel

    path = Path(path)
    if values_zyx.dtype not in (np.int16, np.float32, np.uint8):
        raise ValueError(f"dtype {values_zyx.dtype} is not written; use int16, float32 or uint8")
    if values_zyx.shape != grid.shape_zyx or not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path.name}: shape {values_zyx.shape}, grid {grid.shape_zyx}, .nii.gz")
    affine = _RAS_TO_LPS @ grid.affine_lps
    image = nibabel.Nifti1Image(values_zyx.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        nibabel.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
