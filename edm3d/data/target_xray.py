"""Which X-ray a case has of its target: a real radiograph, a bedside film, or the clean one."""

from pathlib import Path

import numpy as np

from edm3d.data.bedside import bedside_xray
from edm3d.data.film_match import match_film
from edm3d.data.radiograph import read_radiograph
from edm3d.data.xray_geometry import Geometry


def target_xray(
    name: str,
    radiograph: Path | None,
    *,
    target_hu: np.ndarray,
    clean: np.ndarray,
    prior: np.ndarray,
    geometry: Geometry,
    spacing_mm: float,
    case_id: str,
) -> np.ndarray:
    """Line integrals float32 of the view `name` on the geometry's image grid.

    A radiograph that the manifest names for this view is taken, matched to `prior`, the prior's own
    projection. Else the preset decides what is computed from the target; `clean` is its projection.
    """
    if radiograph is not None:
        film = read_radiograph(radiograph, name)
        return match_film(film, prior, geometry, spacing_mm=spacing_mm)[0]
    if geometry.bedside is None:
        return clean
    return bedside_xray(target_hu, name, geometry, spacing_mm=spacing_mm, case_id=case_id)
