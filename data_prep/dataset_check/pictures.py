"""A scan in one strip of small pictures: three cuts through the lungs and both X-rays.

Shapes: `hu` and `labels [z, y, x]` in LPS order, `spacing` in mm (z, y, x).
"""

import io

import numpy as np
from scipy import ndimage

from data_prep.dataset_check.coarse import Spacing
from edm3d.data.projection import line_integrals
from edm3d.segmentation import RIGHT

PICTURE_MM, PICTURE_ROWS = 3.0, 120  # a picture's pixel, and the strip's height in pixels
WINDOW_HU = (-1000.0, 400.0)


def strip(hu: np.ndarray, spacing: Spacing, labels: np.ndarray) -> bytes:
    """JPEG of axial, coronal and sagittal cuts through the lungs, PA and lateral X-ray."""
    z, y, x = _centre(labels)
    dz, dy, dx = spacing
    cuts = [(hu[z], (dy, dx)), (hu[::-1, y], (dz, dx)), (hu[::-1, :, x], (dz, dy))]
    shown = [_scaled(_gray(cut, *WINDOW_HU), size) for cut, size in cuts]
    whole = np.rint(hu).astype(np.int16)
    pa = line_integrals(whole, spacing_mm=dy)[0][::-1]
    lateral = line_integrals(whole, spacing_mm=dx)[1][::-1]
    for image, size in ((pa, (dz, dx)), (lateral, (dz, dy))):
        shown.append(_scaled(_gray(image, 0.0, float(np.percentile(image, 99.5)) or 1.0), size))
    return _jpeg(shown)


def side_by_side(projection: np.ndarray, film: np.ndarray) -> bytes:
    """JPEG of two images `[rows to superior, columns]` on one grid, in the window of the first."""
    top = float(np.percentile(projection, 99.5)) or 1.0
    return _jpeg([_scaled(_gray(i[::-1], 0.0, top), (1.0, 1.0)) for i in (projection, film)])


def _jpeg(shown: list[np.ndarray]) -> bytes:
    from matplotlib.image import imsave

    rows = max(image.shape[0] for image in shown)
    padded = [np.pad(image, ((0, rows - image.shape[0]), (0, 4))) for image in shown]
    buffer = io.BytesIO()
    imsave(
        buffer,
        np.hstack(padded),
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
