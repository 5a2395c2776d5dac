"""One picture of a whole cohort: two scans of every pig, read one at a time.

Of more than `MOST_PIGS` pigs as many are shown, evenly chosen, so that memory has a bound.
"""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import nibabel
import numpy as np
from matplotlib import image as png
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from .noise import MU_WATER_PER_MM

TILE = 112  # pixels a side
PIXEL_MM = 2.4
LUNG_WINDOW_HU = (-1000.0, 250.0)
WIDEST_LINE_INTEGRAL = 5.5  # what is white in the X-ray
MOST_PIGS = 60
_ROWS_A_COLUMN = 25
_DOTS = 100  # pixels an inch


def write_contact_sheet(path: Path, folder: Path, rows: Iterable[dict]) -> None:
    """Writes `path` (PNG): axial, coronal, sagittal and PA X-ray of the scans of `shown_scans`."""
    pairs = shown_scans(rows)
    step = max(1, -(-len(pairs) // MOST_PIGS))
    lines = [
        np.concatenate([_labelled(_strip(folder, row), _label(row)) for row in pair], 1)
        for pair in pairs[::step]
    ]
    png.imsave(path, _in_columns(lines), format="png", metadata={"Software": None})


def shown_scans(rows: Iterable[dict]) -> list[tuple[dict, dict]]:
    """Of every pig the first scan and the most inflated one of the same stage and position."""
    pairs = []
    for _, group in groupby(rows, key=lambda row: row["subject"]):
        own = list(group)
        first = own[0]
        session = [r for r in own if _session(r) == _session(first)]
        last = max(session, key=_inflation)
        pairs.append((first, last))
    return pairs


def _inflation(row: dict) -> tuple[float, bool, float]:
    """Orders scans of a session by PEEP, then phase, then tidal volume."""
    return row["peep_cmh2o"], row["phase"] == "inspiration", row["tidal_volume_ml_kg"]


def _session(row: dict) -> tuple[str, str]:
    return row["stage"], row["position"]


def _label(row: dict) -> str:
    phase = "EI" if row["phase"] == "inspiration" else "EE"
    return (
        f"{row['subject']} {row['split']}\n{row['stage']} {row['position']}\n"
        f"PEEP {row['peep_cmh2o']} {phase}"
    )


def _strip(folder: Path, row: dict) -> np.ndarray:
    """The four pictures of a scan side by side, uint8 `[TILE, 4 TILE]`."""
    hu, spacing = _read(folder / row["ct"])
    z, y, x = _centre_of_right_lung(_read(folder / row["lung_mask"])[0])
    dz, dy, dx = spacing
    lungs = [
        (hu[z], (dy, dx)),
        (hu[::-1, y], (dz, dx)),
        (hu[::-1, :, x], (dz, dy)),
    ]
    water = np.clip(1 + hu[::-1] / 1000, 0, None).sum(1, dtype=np.float32) * dy
    xray = _grey(_tile(water * MU_WATER_PER_MM, (dz, dx), 0.0), (0.0, WIDEST_LINE_INTEGRAL))
    slices = [_grey(_tile(plane, mm, LUNG_WINDOW_HU[0]), LUNG_WINDOW_HU) for plane, mm in lungs]
    return np.concatenate([*slices, xray], 1)


def _read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Values `[z, y, x]` in LPS order and their spacing in mm."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    return values, tuple(float(step) for step in image.header.get_zooms()[::-1])


def _centre_of_right_lung(labels: np.ndarray) -> tuple[int, int, int]:
    return tuple(int(np.median(where)) for where in np.nonzero(labels == 1))


def _tile(plane: np.ndarray, spacing_mm: tuple[float, float], outside: float) -> np.ndarray:
    """`plane` in the middle of a square of `PIXEL_MM` pixels."""
    steps = [PIXEL_MM / step for step in spacing_mm]
    offset = [(n - 1 - step * (TILE - 1)) / 2 for n, step in zip(plane.shape, steps, strict=True)]
    plane = plane.astype(np.float32)
    return ndimage.affine_transform(plane, steps, offset, (TILE, TILE), order=1, cval=outside)


def _grey(plane: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return (255 * np.clip((plane - low) / (high - low), 0, 1)).astype(np.uint8)


def _labelled(strip: np.ndarray, text: str) -> np.ndarray:
    """The strip with `text` in its upper left corner, uint8 `[y, x, 3]`."""
    height, width = strip.shape
    figure = Figure(figsize=(width / _DOTS, height / _DOTS), dpi=_DOTS)
    canvas = FigureCanvasAgg(figure)
    figure.figimage(strip, cmap="gray", vmin=0, vmax=255)
    figure.text(0.005, 0.98, text, color="gold", fontsize=4.5, va="top")
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _in_columns(lines: list[np.ndarray]) -> np.ndarray:
    """The lines below one another, after `_ROWS_A_COLUMN` in a further column."""
    height = min(_ROWS_A_COLUMN, len(lines))
    tall, wide, _ = lines[0].shape
    sheet = np.zeros((height * tall, -(-len(lines) // height) * wide, 3), np.uint8)
    for k, line in enumerate(lines):
        top, left = (k % height) * tall, (k // height) * wide
        sheet[top : top + tall, left : left + wide] = line
    return sheet
