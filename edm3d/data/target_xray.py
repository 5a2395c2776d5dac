"""Which X-ray a case has of its target: a real radiograph, a bedside film, or the clean one."""

import numpy as np

from edm3d.data.bedside import bedside_xray
from edm3d.data.film_match import FilmFit, match_film
from edm3d.data.manifest import Scan
from edm3d.data.radiograph import Film, read_radiograph
from edm3d.data.xray_geometry import Geometry
from edm3d.errors import InputError

_PIXEL_TOLERANCE = 0.01  # of the size a file states: one written with two digits still agrees


def read_film(scan: Scan, view: str) -> Film | None:
    """The film that the manifest names for the scan's view 'pa' or 'lat', None where it names none.

    Raises `InputError` for one that is no such film, and for a pixel size that is not the file's.
    """
    path, given = getattr(scan, f"xray_{view}"), getattr(scan, f"xray_{view}_pixel_mm")
    if path is None:
        return None
    film = read_radiograph(path, view, pixel_mm=given)
    check_pixel_mm(film, given, f"xray_{view}_pixel_mm")
    return film


def check_pixel_mm(film: Film, given: float | None, name: str) -> None:
    """Raises `InputError` where the pixel size given as `name` is not the film's own."""
    if given is not None and not np.allclose(film.spacing_mm, given, rtol=_PIXEL_TOLERANCE):
        stated = " x ".join(f"{size:g}" for size in film.spacing_mm)
        raise InputError(
            f"{name} is {given:g}, but X-ray {film.name} states {stated} mm; correct one, or leave "
            "it out"
        )


def target_xray(
    view: str,
    scan: Scan,
    *,
    target_hu: np.ndarray | None,
    clean: np.ndarray | None,
    prior: np.ndarray,
    geometry: Geometry,
    spacing_mm: float,
    case_id: str,
) -> tuple[np.ndarray, FilmFit | None]:
    """Line integrals float32 of a target scan's view on the geometry's grid, and a film's fit.

    A radiograph that the manifest names for this view is taken, matched to `prior`, the prior's own
    projection. Else the preset decides what is computed from the target; `clean` is its projection.
    Both are None of a target without CT, which has films of both views.
    """
    film = read_film(scan, view)
    if film is not None:
        return match_film(film, prior, geometry, spacing_mm=spacing_mm)
    assert target_hu is not None and clean is not None
    if geometry.bedside is None:
        return clean, None
    image = bedside_xray(target_hu, view, geometry, spacing_mm=spacing_mm, case_id=case_id)
    return image, None
