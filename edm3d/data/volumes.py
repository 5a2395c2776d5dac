"""CT volumes with their place in the scanner: one way in, whatever the file's format.

NIfTI (`edm3d.data.nifti`), MetaImage and NRRD (`edm3d.data.images`) and DICOM series
(`edm3d.data.dicom`) come out alike: float32 HU `[z, y, x]` in LPS order on their `Grid`
(`edm3d.data.geometry`). Nothing that tells who was scanned leaves a reader. Read next:
`edm3d.data.projection` (X-rays of a volume), `edm3d.data.records` (what becomes of a pair).
"""

import os
from pathlib import Path

import numpy as np

from edm3d.data import dicom, images, nifti
from edm3d.data.geometry import (
    AIR_HU,
    Grid,
    Volume,
    coverage,
    resample,
    same_grid,
    working_grid,
)
from edm3d.data.nifti import write_nifti
from edm3d.data.plausibility import check_hu
from edm3d.errors import InputError

__all__ = [
    "AIR_HU",
    "Grid",
    "Volume",
    "check_hu",
    "coverage",
    "read_ct",
    "read_grid",
    "read_mask",
    "resample",
    "same_grid",
    "working_grid",
    "write_nifti",
]


def _is_dicom(path: Path) -> bool:
    """Whether a path is a folder or carries the DICOM mark; raises `InputError` if it is not."""
    if path.is_dir():
        return True
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path")
    try:
        return dicom.is_dicom_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); mend that") from error


def _refuse_series(path: Path, series: str | None) -> None:
    if series is not None:
        raise InputError(f"series {series!r} is asked of {path}, which is no DICOM; leave it empty")


def read_grid(path: str | os.PathLike, *, series: str | None = None) -> Grid:
    """The grid of a volume in LPS order, from headers alone; arguments as of `read_ct`."""
    path = Path(path)
    if _is_dicom(path):
        return dicom.read_series_grid(path, series)
    _refuse_series(path, series)
    return (images if images.is_image(path) else nifti).read_grid(path)


def _read(path: Path, series: str | None) -> Volume:
    if _is_dicom(path):
        return dicom.read_series(path, series)
    _refuse_series(path, series)
    return images.read_image(path) if images.is_image(path) else nifti.read_nifti(path)


def read_ct(path: str | os.PathLike, *, series: str | None = None) -> Volume:
    """A chest CT in float32 HU; padding, and whatever lies below -1024, becomes -1024.

    `path` is a NIfTI, MetaImage or NRRD file, a folder of DICOM, or one multi-frame DICOM file.
    `series` picks one of several DICOM series of a folder, by its number or its key as the error
    lists them. Raises `InputError` for what is unreadable, ambiguous in geometry, or no CT.
    """
    volume = _read(Path(path), series)
    check_hu(volume, str(path))
    np.maximum(volume.values, np.float32(AIR_HU), out=volume.values)
    return volume


def read_mask(path: str | os.PathLike) -> Volume:
    """A label volume as uint8 from NIfTI, MetaImage or NRRD."""
    path = Path(path)
    if _is_dicom(path):
        raise InputError(f"mask {path} is DICOM; give labels as NIfTI, MetaImage or NRRD")
    volume = _read(path, None)
    with np.errstate(invalid="ignore"):
        labels = volume.values.astype(np.uint8)
    if not np.array_equal(labels, volume.values):
        wrong = np.unique(volume.values[labels != volume.values])
        shown = ", ".join(f"{v:g}" for v in wrong[:3])
        raise InputError(f"mask {path} holds {shown}; labels are whole numbers from 0 to 255")
    return Volume(labels, volume.grid)
