"""Stores a volume as NIfTI in a chosen axis layout; the affine is right whatever the layout."""

from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


FRACTION_STEP = 1e-4  # of int16 fraction maps


def store(path: Path, values_zyx: np.ndarray, affine_lps: np.ndarray, axes: str) -> None:
    """Writes `values` `[z, y, x]`; `axes` such as LPS or PSL says how the file is laid out.

    `affine_lps` `[4, 4]` maps voxel (x, y, z) of `values` to LPS mm.
    """
    nibabel.save(_laid_out(values_zyx, affine_lps, axes), path)


def store_fraction(path: Path, fraction_zyx: np.ndarray, affine_lps: np.ndarray, axes: str) -> None:
    """Writes a map `[z, y, x]` of fractions as int16 with a scale, so that it reads as 0 to 1."""
    steps = np.rint(fraction_zyx / FRACTION_STEP).astype(np.int16)
    image = _laid_out(steps, affine_lps, axes)
    image.header.set_slope_inter(FRACTION_STEP, 0)
    nibabel.save(image, path)


def _laid_out(values_zyx: np.ndarray, affine_lps: np.ndarray, axes: str) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(values_zyx.transpose(2, 1, 0), _LPS_TO_RAS @ affine_lps)
    image.header.set_xyzt_units("mm")
    now = orientations.io_orientation(image.affine)
    turn = orientations.ornt_transform(now, orientations.axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    turned.set_qform(turned.affine, code=1)
    turned.set_sform(turned.affine, code=1)
    return turned
