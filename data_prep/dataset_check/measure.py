"""What one scan shows, in numbers and in one strip of pictures; judged elsewhere.

Read next: `data_prep.dataset_check.judge`.
"""

import hashlib
import io
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
from edm3d.data import dicom
from edm3d.data.manifest import Scan
from edm3d.data.projection import line_integrals
from edm3d.data.volumes import AIR_HU, Grid, Volume, read_ct, read_mask, same_grid
from edm3d.errors import InputError
from edm3d.segmentation import LEFT, RIGHT, classical_lungs

TISSUE_RANGE_HU = (-50, 250)  # muscle, blood and liver without fat, shifted by some
TISSUE_BIN_HU = 5
LEAST_OUTSIDE = 0.01  # of all voxels, to tell the HU of outside air
SAMPLED = 200_000  # voxels, to find a value that very many share
PICTURE_MM, PICTURE_ROWS = 3.0, 120  # a picture's pixel, and the strip's height in pixels
WINDOW_HU = (-1000.0, 400.0)


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
    header_position: str  # 'supine' or 'prone' as DICOM tells; empty where nothing does
    couch_side: float  # 1 posterior (supine) to -1 anterior (prone); 0 none seen
    spine_side: float  # above 0 posterior, as it must be; NaN unknown
    mask_dice: float | None  # given mask against the classical one
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


def see(scan: Scan) -> Seen:
    """Opens one scan and measures it; a fault of its files becomes words."""
    try:
        volume = read_ct(scan.ct, series=scan.series)
        hu, spacing = coarse_volume(volume)
        labels = classical_lungs(hu, spacing)
        dice = _mask_dice(scan, volume.grid, labels, spacing)
        position = _header_position(scan)
        measured = _measured(volume, hu, spacing, labels, dice, position)
        return Seen(scan, volume.grid, measured, _picture(hu, spacing, labels))
    except InputError as error:
        return Seen(scan, fault=str(error))


def _measured(
    volume: Volume,
    hu: np.ndarray,
    spacing: Spacing,
    labels: np.ndarray,
    dice: float | None,
    position: str,
) -> Measurement:
    body, lungs = trunk(hu, spacing), hu[labels > 0]
    voxel_ml, slice_cm2 = np.prod(spacing) / 1000, spacing[1] * spacing[2] / 100
    common_hu, common_share = _most_common(volume.values)
    return Measurement(
        shape_zyx=volume.grid.shape_zyx,
        spacing_zyx_mm=volume.grid.spacing_zyx_mm,
        oblique_deg=_oblique_deg(volume.grid),
        padding_share=float(np.count_nonzero(volume.values <= AIR_HU) / volume.values.size),
        common_hu=common_hu,
        common_share=common_share,
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
        header_position=position,
        couch_side=couch_side(hu, body, spacing),
        spine_side=spine_side(hu, body),
        mask_dice=dice,
        values_sha256=hashlib.sha256(volume.values.data).hexdigest(),
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
    """The patient position (0018,5100) as the manifest words it; NIfTI and others have none."""
    if not (scan.ct.is_dir() or dicom.is_dicom_file(scan.ct)):
        return ""
    values = dicom.pick_series(scan.ct, scan.series).headers[0].values
    posture = "".join(values.get("patient_position") or [])  # HFS, FFP, ...
    return {"S": "supine", "P": "prone"}.get(posture[-1:], "")


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


def _mask_dice(scan: Scan, grid: Grid, labels: np.ndarray, spacing: Spacing) -> float | None:
    """Dice of the given and the classical mask; raises `InputError` for a mask of another grid."""
    if scan.lung_mask is None:
        return None
    mask = read_mask(scan.lung_mask)
    if not same_grid(mask.grid, grid, tolerance_mm=0.1):
        raise InputError(
            f"lung mask {scan.lung_mask} lies on another grid than its CT {scan.ct}; give the mask "
            "of this scan"
        )
    inside = Volume((mask.values > 0).view(np.uint8), mask.grid)
    given, found = coarse_volume(inside)[0] >= 0.5, labels > 0
    total = np.count_nonzero(given) + np.count_nonzero(found)
    return 2 * np.count_nonzero(given & found) / total if total else None


# Pictures.


def _picture(hu: np.ndarray, spacing: Spacing, labels: np.ndarray) -> bytes:
    """JPEG of axial, coronal and sagittal cuts through the lungs, PA and lateral X-ray."""
    from matplotlib.image import imsave

    z, y, x = _centre(labels)
    dz, dy, dx = spacing
    cuts = [(hu[z], (dy, dx)), (hu[::-1, y], (dz, dx)), (hu[::-1, :, x], (dz, dy))]
    shown = [_scaled(_gray(cut, *WINDOW_HU), size) for cut, size in cuts]
    whole = np.rint(hu).astype(np.int16)
    pa = line_integrals(whole, spacing_mm=dy)[0][::-1]
    lateral = line_integrals(whole, spacing_mm=dx)[1][::-1]
    for image, size in ((pa, (dz, dx)), (lateral, (dz, dy))):
        shown.append(_scaled(_gray(image, 0.0, float(np.percentile(image, 99.5)) or 1.0), size))
    rows = max(image.shape[0] for image in shown)
    strip = [np.pad(image, ((0, rows - image.shape[0]), (0, 4))) for image in shown]
    buffer = io.BytesIO()
    imsave(
        buffer,
        np.hstack(strip),
        cmap="gray",
        vmin=0,
        vmax=1,
        format="jpg",
        pil_kwargs={"quality": 80},
    )
    return buffer.getvalue()


def _centre(labels: np.ndarray) -> tuple[int, int, int]:
    """The middle of the lungs; sagittal, of the right lung. Of the image where there are none."""
    found = np.argwhere(labels > 0)
    if not len(found):
        z, y, x = (n // 2 for n in labels.shape)
        return z, y, x
    right = np.argwhere(labels == RIGHT)
    z, y = found.mean(axis=0).astype(int)[:2].tolist()
    return z, y, int((right if len(right) else found)[:, 2].mean())


def _gray(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def _scaled(image: np.ndarray, size_mm: tuple[float, float]) -> np.ndarray:
    """The image on square pixels, at most PICTURE_ROWS high."""
    factors = np.array(size_mm) / PICTURE_MM
    factors *= min(1.0, PICTURE_ROWS / (image.shape[0] * factors[0]))
    return np.asarray(ndimage.zoom(image, factors, order=1)).clip(0, 1)
