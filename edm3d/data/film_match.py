"""A radiograph on the image grid and on the scale of the prior's own projection (its DRR).

Procedure, stated with every result as a `FilmFit`:
1. The film is laid centre on centre, its pixels scaled from its magnification to the grid's.
2. It is shifted by whole grid pixels, at most 60 mm, to where it correlates best with the DRR.
3. gain and offset make two numbers of the film those of the DRR over the pixels that both have: the
   1st percentile of the picture (air or background), and the 90th of the body, which is where the
   DRR is above 0.5 (24 mm of water): spine, mediastinum and abdomen, which hold no gas. The body's
   median would not do: it is lung, and its gas is what shall be seen on the film (a change from
   -700 to -500 HU kept 58 % of itself by the median, 100 % by the 90th percentile).
4. Where the film does not reach, the DRR stands: no difference is claimed there.
The thickness of gasless tissue is thus taken from the prior. Step 2 follows the diaphragm a little:
between full expiration and inspiration of a 4D-CT it moved a film that lay right by 4 mm.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edm3d.data.radiograph import Film
from edm3d.data.xray_geometry import Geometry
from edm3d.errors import InputError

AIR_PERCENTILE = 1.0
BODY_PERCENTILE = 90.0
BODY_LINE_INTEGRAL = 0.5
MOST_SHIFT_MM = 60.0
LEAST_COVERED = 0.5  # of the grid by the film
LEAST_CORRELATION = 0.4
# Simulated bedside films of three humans and twelve virtual pigs correlate 0.85 to 0.99 with their
# own projections, 0.87 to 0.98 with those of another breath or PEEP. The other view reaches 0.87,
# another subject 0.99, as a body's outline is most of it: a high value proves nothing.
LOW_CORRELATION = 0.8
DETAIL_MM = 25.0  # SD of the Gaussian that is taken off: ribs, vertebrae and diaphragm stay
_COARSE = 4  # pixels of the first search
_EDGE_MM = 16.0  # of the body, which alone would correlate


@dataclass(frozen=True)
class FilmFit:
    """What was done to a film: line integral = gain x value + offset, after the shift."""

    gain: float
    offset: float
    shift_mm: tuple[float, float]  # to superior, to higher columns
    magnification: float
    magnification_is_from_header: bool
    correlation: float
    detail_correlation: float  # in the body, of what is finer than DETAIL_MM
    covered: float  # share of the grid
    median_difference: float  # absolute, of line integrals, over the body

    def to_plain(self) -> dict[str, Any]:
        """As records and case.json hold it: numbers, and lists for tuples."""
        return {**dataclasses.asdict(self), "shift_mm": list(self.shift_mm)}


def match_film(
    film: Film, drr: np.ndarray, geometry: Geometry, *, spacing_mm: float
) -> tuple[np.ndarray, FilmFit]:
    """The film's line integrals float32 on the grid of `drr`, and how they came about.

    Raises `InputError` where the film covers too little, does not look like the projection, fits
    best at the border of the search or against it in detail, and for an AP or right lateral film in
    cone beam, whose source stands on the other side.
    """
    if film.reversed and geometry.cone is not None:
        raise InputError(
            f"X-ray {film.name} is an AP or right lateral film, but the cone beam of data.cone "
            "shines from the back and the right; use data.geometry='parallel'"
        )
    pitch, grid_magnification = _grid_scale(geometry, spacing_mm)
    values, shift, correlation = _laid(film, drr, pitch, grid_magnification)
    covered = np.isfinite(values)
    _check_match(film, correlation, float(covered.mean()))
    _check_place(film, shift, int(MOST_SHIFT_MM / pitch))
    gain, offset = _affine(film, values[covered], drr[covered])
    image = np.where(covered, gain * values + offset, drr).astype(np.float32)
    body = covered & (drr > BODY_LINE_INTEGRAL)
    detail = _detail_correlation(image, drr, body, pitch)
    if detail < 0:
        raise InputError(
            f"X-ray {film.name} shows ribs and spine where the prior's projection has none "
            f"(correlation in detail {detail:.2f}); is it inverted, or another view?"
        )
    fit = FilmFit(
        gain=gain,
        offset=offset,
        shift_mm=(-shift[0] * pitch, -shift[1] * pitch),
        magnification=film.magnification or grid_magnification,
        magnification_is_from_header=film.magnification is not None,
        correlation=correlation,
        detail_correlation=detail,
        covered=float(covered.mean()),
        median_difference=float(np.median(np.abs(image - drr)[body])),
    )
    return image, fit


def best_correlation(
    film: Film, drr: np.ndarray, geometry: Geometry, *, spacing_mm: float
) -> float:
    """The correlation that `match_film` looks at; -1 where the film covers too little."""
    return _laid(film, drr, *_grid_scale(geometry, spacing_mm))[2]


def _laid(
    film: Film, drr: np.ndarray, pitch: float, grid_magnification: float
) -> tuple[np.ndarray, tuple[int, int], float]:
    """The film on the grid of `drr` where it correlates best, NaN beside it; shift, correlation."""
    enlarged = (film.magnification or grid_magnification) / grid_magnification
    margin = int(MOST_SHIFT_MM / pitch)
    wide = _on_grid(film, drr.shape, pitch_mm=pitch * enlarged, margin=margin)
    shift, correlation = _best_shift(wide, drr, margin)
    return _window(wide, drr.shape, margin, shift), shift, correlation


def _grid_scale(geometry: Geometry, spacing_mm: float) -> tuple[float, float]:
    """The grid's pixel in mm and its magnification at the isocentre."""
    cone = geometry.cone
    if cone is None:
        return spacing_mm, 1.0
    return cone.detector_pitch_mm, cone.source_to_detector_mm / cone.source_to_isocentre_mm


def _on_grid(film: Film, shape: tuple[int, ...], *, pitch_mm: float, margin: int) -> np.ndarray:
    """The film on the grid widened by `margin` pixels all round, centre on centre; else NaN."""
    from scipy import ndimage

    places, sigmas = [], []
    for size, pixels, spacing in zip(shape, film.values.shape, film.spacing_mm, strict=True):
        offsets = (np.arange(size + 2 * margin) - (size + 2 * margin - 1) / 2) * pitch_mm
        places.append(offsets / spacing + (pixels - 1) / 2)
        sigmas.append(np.sqrt(max((pitch_mm / spacing) ** 2 - 1, 0)) / 2.3548)  # FWHM of a pixel
    smooth = ndimage.gaussian_filter(film.values.astype(np.float64), sigmas, mode="nearest")
    rows, columns = np.meshgrid(*places, indexing="ij")
    values = ndimage.map_coordinates(smooth, [rows, columns], order=1, mode="nearest")
    inside = [
        (p >= -0.5) & (p <= n - 0.5) for p, n in zip((rows, columns), smooth.shape, strict=True)
    ]
    return np.where(inside[0] & inside[1], values, np.nan)


def _window(wide: np.ndarray, shape, margin: int, shift: tuple[int, int]) -> np.ndarray:
    """The grid's part of the widened film, seen `shift` pixels off the centre."""
    rows, columns = (slice(margin + s, margin + s + n) for s, n in zip(shift, shape, strict=True))
    return wide[rows, columns]


def _correlation(values: np.ndarray, drr: np.ndarray) -> float:
    both = np.isfinite(values)
    if both.mean() < LEAST_COVERED:
        return -1.0
    a, b = values[both] - values[both].mean(), drr[both] - drr[both].mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else -1.0


def _detail_correlation(
    image: np.ndarray, drr: np.ndarray, body: np.ndarray, pitch_mm: float
) -> float:
    """Correlation of film and projection without their coarse course; 0 where there is no body."""
    from scipy import ndimage

    steps = max(round(_EDGE_MM / pitch_mm), 1)
    inside = np.asarray(ndimage.binary_erosion(body, iterations=steps), bool)
    fine = [np.asarray(i - ndimage.gaussian_filter(i, DETAIL_MM / pitch_mm)) for i in (image, drr)]
    a, b = (i[inside].astype(float) for i in fine)
    norm = np.sqrt(a.var() * b.var()) if a.size else 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / norm) if norm > 0 else 0.0


def _best_shift(wide: np.ndarray, drr: np.ndarray, margin: int) -> tuple[tuple[int, int], float]:
    """The shift in pixels of highest correlation: every fourth one first, then around the best."""

    def best(shifts: Iterable[tuple[int, int]], step: int) -> tuple[tuple[int, int], float]:
        window = ((s, _window(wide, drr.shape, margin, s)) for s in shifts)
        scored = ((s, _correlation(w[::step, ::step], drr[::step, ::step])) for s, w in window)
        return max(scored, key=lambda found: (found[1], -abs(found[0][0]) - abs(found[0][1])))

    reach = margin // _COARSE * _COARSE
    coarse = range(-reach, reach + 1, _COARSE)
    (row, column), _ = best(itertools.product(coarse, coarse), step=2)

    def near(centre: int) -> range:
        return range(max(centre - _COARSE, -margin), min(centre + _COARSE, margin) + 1)

    return best(itertools.product(near(row), near(column)), step=1)


def _check_match(film: Film, correlation: float, covered: float) -> None:
    if covered < LEAST_COVERED:
        raise InputError(
            f"X-ray {film.name} covers {covered:.0%} of the prior's projection; give a film of the "
            f"whole chest ({LEAST_COVERED:.0%} or more), or look at its pixel size"
        )
    if correlation < LEAST_CORRELATION:
        raise InputError(
            f"X-ray {film.name} correlates {correlation:.2f} with the prior's projection, below "
            f"{LEAST_CORRELATION}; is it upright, bone-bright, and of this subject and view? look "
            "at it with data_prep/preview_xrays.py"
        )


def _check_place(film: Film, shift: tuple[int, int], margin: int) -> None:
    """A best shift on the border of the search is none: it goes on beyond."""
    if max(map(abs, shift)) >= margin:
        raise InputError(
            f"X-ray {film.name} fits best at the border of the search, {MOST_SHIFT_MM:g} mm off; "
            "is it of this subject and view, upright, and is its pixel size right?"
        )


def _affine(film: Film, values: np.ndarray, drr: np.ndarray) -> tuple[float, float]:
    """gain and offset that carry the film's air and gasless body to those of the DRR."""
    body = drr > BODY_LINE_INTEGRAL
    if not body.any():
        raise InputError(f"X-ray {film.name} lies beside the prior's body; check its pixel size")
    low, low_drr = (float(np.percentile(v, AIR_PERCENTILE)) for v in (values, drr))
    high, high_drr = (float(np.percentile(v[body], BODY_PERCENTILE)) for v in (values, drr))
    if not (high > low and high_drr > low_drr):
        raise InputError(
            f"X-ray {film.name} is no brighter in the body ({high:g}) than in air ({low:g}); is it "
            "inverted?"
        )
    gain = (high_drr - low_drr) / (high - low)
    return gain, high_drr - gain * high
