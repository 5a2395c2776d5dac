"""A scan's films beside the projections of a CT: how they fit, how they would otherwise, a picture.

Read next: `edm3d.data.film_match`, `data_prep.dataset_check.film_faults` (what is wrong with them).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from data_prep.dataset_check.coarse import Spacing
from data_prep.dataset_check.pictures import side_by_side
from edm3d.data.film_match import FilmFit, best_correlation, match_film
from edm3d.data.manifest import Scan
from edm3d.data.projection import xray
from edm3d.data.radiograph import Film
from edm3d.data.target_xray import read_film
from edm3d.data.volumes import Grid, Volume, resample, working_grid
from edm3d.data.xray_geometry import Geometry
from edm3d.errors import InputError

FILM_MM = 4.0  # of the projections: coarser than records, and enough to tell what a film shows
VIEWS = {"pa": "lat", "lat": "pa"}  # each with the other one


@dataclass(frozen=True)
class FilmSeen:
    """One film: its fit, or why it has none, and its correlation had it been given otherwise.

    `otherwise` names 'mirrored', 'upside down' and 'as the other view'. `of_ct` is the scan whose
    CT was projected: the film's own, or a comparable one where the scan has films only.
    """

    view: str
    fit: FilmFit | None = None
    otherwise: dict[str, float] | None = None
    of_ct: str = ""
    picture: bytes = b""  # JPEG: the projection, the film
    fault: str = ""

    def to_plain(self) -> dict[str, Any]:
        """For JSON: without the picture."""
        return {k: v for k, v in asdict(self).items() if k != "picture"}


def told(film: FilmSeen) -> str:
    """A film's fit in one line."""
    if film.fit is None:
        return f"{film.view} film: not fitted"
    up, right = film.fit.shift_mm
    return (
        f"{film.view} film against {film.of_ct}: correlation {film.fit.correlation:.2f}, in detail "
        f"{film.fit.detail_correlation:.2f}, moved {up:+.0f} mm up and {right:+.0f} mm right"
    )


def see_films(
    scan: Scan, of_ct: str, hu: np.ndarray | None, spacing: Spacing, geometry: Geometry
) -> tuple[FilmSeen, ...]:
    """The films of a scan against projections of `hu [z, y, x]`; only opened where that is None."""
    films, seen = [], []
    for view in VIEWS:
        try:
            films.append((view, read_film(scan, view)))
        except InputError as error:
            seen.append(FilmSeen(view, fault=str(error)))
    found = [(view, film) for view, film in films if film is not None]
    if hu is None or not found:
        return (*seen, *(FilmSeen(view) for view, _ in found))
    drrs = projections(hu, spacing, geometry)
    return (*seen, *(_fitted(view, film, of_ct, drrs, geometry) for view, film in found))


def projections(hu: np.ndarray, spacing: Spacing, geometry: Geometry) -> dict[str, np.ndarray]:
    """Both views of a volume on coarse voxels."""
    z, y, x = spacing
    volume = Volume(hu.astype(np.float32), Grid(hu.shape, np.diag([x, y, z, 1.0])))
    even = resample(volume, working_grid(volume.grid, FILM_MM))
    return {view: xray(even, view, geometry, spacing_mm=FILM_MM) for view in VIEWS}


def _fitted(
    view: str, film: Film, of_ct: str, drrs: dict[str, np.ndarray], geometry: Geometry
) -> FilmSeen:
    otherwise = dict(_otherwise(view, film, drrs, geometry))
    try:
        image, fit = match_film(film, drrs[view], geometry, spacing_mm=FILM_MM)
    except InputError as error:
        return FilmSeen(view, otherwise=otherwise, of_ct=of_ct, fault=str(error))
    return FilmSeen(view, fit, otherwise, of_ct, side_by_side(drrs[view], image))


def _otherwise(
    view: str, film: Film, drrs: dict[str, np.ndarray], geometry: Geometry
) -> Iterator[tuple[str, float]]:
    mirrored = replace(film, values=film.values[:, ::-1])
    upside_down = replace(film, values=film.values[::-1])
    for name, changed, drr in (
        ("mirrored", mirrored, drrs[view]),
        ("upside down", upside_down, drrs[view]),
        ("as the other view", film, drrs[VIEWS[view]]),
    ):
        yield name, best_correlation(changed, drr, geometry, spacing_mm=FILM_MM)
