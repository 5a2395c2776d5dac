"""What one scan shows, in numbers and in one strip of pictures; judged elsewhere.

Read next: `data_prep.dataset_check.judge`.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from data_prep.dataset_check.coarse import (
    Spacing,
    around,
    coarse_volume,
    couch_side,
    cut_lung_cm2,
    spine_side,
    trunk,
)
from data_prep.dataset_check.films import FilmSeen, see_films
from data_prep.dataset_check.pictures import strip
from edm3d.data import dicom
from edm3d.data.lung_masks import read_lung_mask
from edm3d.data.manifest import Scan
from edm3d.data.volumes import AIR_HU, Grid, Volume, read_ct
from edm3d.data.xray_geometry import Geometry
from edm3d.errors import InputError
from edm3d.segmentation import LEFT, RIGHT, classical_lungs

TISSUE_RANGE_HU = (-50, 250)  # muscle, blood and liver without fat, shifted by some
TISSUE_BIN_HU = 5
LEAST_OUTSIDE = 0.01  # of all voxels, to tell the HU of outside air
PARALLEL = Geometry()
SAMPLED = 200_000  # voxels, to find a value that very many share


@dataclass(frozen=True)
class Measurement:
    """Numbers of one scan. Volumes in ml, areas in cm2, lung values by the classical mask."""

    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    oblique_deg: float  # the largest angle between an axis of the image and the patient's
    padding_share: float  # of voxels at -1024 HU or below
    common_hu: float  # the most frequent value, and its share of voxels
    common_share: float
    air_hu: float | None  # median outside the trunk, None where the image ends at the skin
    tissue_hu: float | None  # mode between -50 and 250 HU in the trunk
    right_ml: float
    left_ml: float
    smaller_side: float | None  # share of the lung on the emptier side of the trunk's midline
    gas_ml: float
    tissue_g: float
    lung_hu: float | None
    bottom_cm2: float  # lung in the lowest and the highest slice
    top_cm2: float
    side_cm2: dict[str, float]  # lung that a side of the image cuts
    header_position: str  # posture as DICOM tells, a decubitus too; empty where nothing does
    couch_side: float  # 1 posterior (supine) to -1 anterior (prone); 0 none seen
    spine_side: float  # above 0 posterior, as it must be; NaN unknown
    mask_dice: float | None  # given mask against the classical one
    mask_fault: str  # why the given mask cannot be this scan's; empty where it can
    values_sha256: str

    @property
    def lung_ml(self) -> float:
        return self.right_ml + self.left_ml


@dataclass(frozen=True)
class Seen:
    """A scan that was opened: grid, numbers, and pictures as one JPEG; or why it was not."""

    scan: Scan
    grid: Grid | None = None
    measured: Measurement | None = None
    picture: bytes = b""
    fault: str = ""
    films: tuple[FilmSeen, ...] = ()


def see(scan: Scan, geometry: Geometry = PARALLEL, reference: Scan | None = None) -> Seen:
    """Opens one scan with its films and measures it; a fault of its files becomes words.

    The films of a scan without CT are held against `reference`, a comparable scan that has one.
    """
    if scan.ct is None:
        return Seen(scan, films=_films_alone(scan, geometry, reference))
    try:
        opened = _opened(scan)
        labels = classical_lungs(opened.hu, opened.spacing)
        measured = _measured(scan, opened, labels)
        films = see_films(scan, _name(scan), opened.hu, opened.spacing, geometry)
        picture = strip(opened.hu, opened.spacing, labels)
        return Seen(scan, opened.grid, measured, picture, films=films)
    except InputError as error:
        return Seen(scan, fault=str(error), films=_films_alone(scan, geometry, None))


def _films_alone(scan: Scan, geometry: Geometry, reference: Scan | None) -> tuple[FilmSeen, ...]:
    if reference is None:
        return see_films(scan, "", None, (1.0, 1.0, 1.0), geometry)
    try:
        opened = _opened(reference)
    except InputError:  # told in the reference's own row
        return _films_alone(scan, geometry, None)
    return see_films(scan, _name(reference), opened.hu, opened.spacing, geometry)


def _name(scan: Scan) -> str:
    return f"{scan.subject}/{scan.scan}"


@dataclass(frozen=True, eq=False)
class _Opened:
    """A scan on coarse voxels, and what only its own voxels tell."""

    grid: Grid
    hu: np.ndarray
    spacing: Spacing
    padding_share: float
    common_hu: float
    common_share: float
    values_sha256: str


def _opened(scan: Scan) -> _Opened:
    volume = read_ct(scan.ct, series=scan.series)
    return _Opened(
        volume.grid,
        *coarse_volume(volume),
        float(np.count_nonzero(volume.values <= AIR_HU) / volume.values.size),
        *_most_common(volume.values),
        hashlib.sha256(volume.values.data).hexdigest(),
    )


def _measured(scan: Scan, opened: _Opened, labels: np.ndarray) -> Measurement:
    hu, spacing = opened.hu, opened.spacing
    body, lungs = trunk(hu, spacing), hu[labels > 0]
    mask_dice, mask_fault = _mask_against(scan, opened.grid, labels)
    voxel_ml, slice_cm2 = np.prod(spacing) / 1000, spacing[1] * spacing[2] / 100
    return Measurement(
        shape_zyx=opened.grid.shape_zyx,
        spacing_zyx_mm=opened.grid.spacing_zyx_mm,
        oblique_deg=_oblique_deg(opened.grid),
        padding_share=opened.padding_share,
        common_hu=opened.common_hu,
        common_share=opened.common_share,
        air_hu=_air_hu(hu, body, spacing),
        tissue_hu=_tissue_hu(hu[body]),
        right_ml=float(np.count_nonzero(labels == RIGHT) * voxel_ml),
        left_ml=float(np.count_nonzero(labels == LEFT) * voxel_ml),
        smaller_side=_smaller_side(labels > 0, body),
        gas_ml=float(np.clip(-lungs / 1000, 0, 1).sum() * voxel_ml),
        tissue_g=float(np.clip(1 + lungs / 1000, 0, None).sum() * voxel_ml),
        lung_hu=float(lungs.mean()) if lungs.size else None,
        bottom_cm2=float(np.count_nonzero(labels[0]) * slice_cm2),
        top_cm2=float(np.count_nonzero(labels[-1]) * slice_cm2),
        side_cm2=cut_lung_cm2(hu, spacing),
        header_position=_header_position(scan),
        couch_side=couch_side(hu, body, spacing),
        spine_side=spine_side(hu, body),
        mask_dice=mask_dice,
        mask_fault=mask_fault,
        values_sha256=opened.values_sha256,
    )


def _smaller_side(lungs: np.ndarray, body: np.ndarray) -> float | None:
    """0.5 for lungs alike, 0 for one lung; None without any."""
    columns, lung_columns = (mask.sum(axis=(0, 1)) for mask in (body, lungs))
    if not lungs.any() or not body.any():
        return None
    middle = np.nonzero(columns)[0].mean()
    right = lung_columns[np.arange(len(lung_columns)) < middle].sum() / lung_columns.sum()
    return float(min(right, 1 - right))


def _header_position(scan: Scan) -> str:
    """The posture that DICOM tells, see `dicom.posture`; NIfTI and others tell none."""
    if not (scan.ct.is_dir() or dicom.is_dicom_file(scan.ct)):
        return ""
    return dicom.read_posture(scan.ct, scan.series) or ""


def _oblique_deg(grid: Grid) -> float:
    axes = grid.affine_lps[:3, :3] / np.array(grid.spacing_zyx_mm[::-1])
    return float(np.degrees(np.arccos(np.clip(np.diag(axes), -1, 1))).max())


def _most_common(values: np.ndarray) -> tuple[float, float]:
    """The most frequent whole value above padding, and its share of all voxels."""
    flat = values.ravel()
    sample = np.rint(flat[:: max(1, flat.size // SAMPLED)]).astype(int)
    counts = np.bincount(sample[sample > AIR_HU] - int(AIR_HU), minlength=1)
    return float(np.argmax(counts) + AIR_HU), float(counts.max() / sample.size)


def _air_hu(hu: np.ndarray, body: np.ndarray, spacing: Spacing) -> float | None:
    """Median HU of what is neither trunk nor padding nor couch."""
    outside = around(body, spacing) & (hu > AIR_HU + 0.5)
    if np.count_nonzero(outside) < LEAST_OUTSIDE * hu.size:
        return None
    return float(np.median(hu[outside]))


def _tissue_hu(body_hu: np.ndarray) -> float | None:
    low, high = TISSUE_RANGE_HU
    counts, edges = np.histogram(body_hu, np.arange(low, high + 1, TISSUE_BIN_HU))
    if counts.sum() < 0.02 * body_hu.size or not body_hu.size:
        return None
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2.0)
    return float(edges[np.argmax(smooth)] + TISSUE_BIN_HU / 2)


def _mask_against(scan: Scan, grid: Grid, labels: np.ndarray) -> tuple[float | None, str]:
    """Dice of the given and the classical mask, and what stands against the given one."""
    if scan.lung_mask is None:
        return None, ""
    try:
        mask = read_lung_mask(scan.lung_mask, scan.ct, grid)
    except InputError as error:
        return None, str(error)
    inside = Volume((mask.values > 0).view(np.uint8), mask.grid)
    given, found = coarse_volume(inside)[0] >= 0.5, labels > 0
    total = np.count_nonzero(given) + np.count_nonzero(found)
    return (2 * np.count_nonzero(given & found) / total if total else None), ""
