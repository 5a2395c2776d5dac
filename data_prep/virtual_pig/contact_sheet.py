"""One picture of a whole cohort: two scans of every pig, read one at a time."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from .noise import MU_WATER_PER_MM

TILE = 112  # pixels a side
PIXEL_MM = 2.4
LUNG_WINDOW_HU = (-1000.0, 250.0)
WIDEST_LINE_INTEGRAL = 5.5  # what is white in the X-ray
_ROWS_A_COLUMN = 25
_PANELS = 4


def write_contact_sheet(path: Path, folder: Path, rows: Iterable[dict]) -> None:
    """Writes `path` (PNG): axial, coronal, sagittal and PA X-ray of the scans of `shown_scans`."""
    shown = shown_scans(rows)
    strips = [_strip(folder, row) for pair in shown for row in pair]
    labels = [_label(row) for pair in shown for row in pair]
    _save(path, *_in_columns(strips, labels))


def shown_scans(rows: Iterable[dict]) -> list[tuple[dict, dict]]:
    """Of every pig the first scan and the most inflated one of the same stage and position."""
    pairs = []
    for _, group in groupby(rows, key=lambda row: row["subject"]):
        own = list(group)
        first = own[0]
        session = [r for r in own if _session(r) == _session(first)]
        last = max(session, key=lambda r: (r["peep_cmh2o"], r["phase"] == "inspiration"))
        pairs.append((first, last))
    return pairs


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


def _in_columns(strips: list[np.ndarray], labels: list[str]) -> tuple[np.ndarray, list[tuple]]:
    """The strips two a line in columns as one image, and where each label goes."""
    lines = [np.concatenate(strips[i : i + 2], 1) for i in range(0, len(strips), 2)]
    height = min(_ROWS_A_COLUMN, len(lines))
    columns = -(-len(lines) // height)
    tall, wide = lines[0].shape
    image = np.zeros((height * tall, columns * wide), np.uint8)
    places = []
    for k, line in enumerate(lines):
        top, left = (k % height) * tall, (k // height) * wide
        image[top : top + tall, left : left + wide] = line
        places += [(left, top, labels[2 * k]), (left + wide // 2, top, labels[2 * k + 1])]
    return image, places


def _save(path: Path, image: np.ndarray, labels: list[tuple]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(image.shape[1] / 100, image.shape[0] / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for left, top, text in labels:
        axes.text(left + 2, top + 2, text, color="gold", fontsize=4.5, va="top")
    figure.savefig(path, format="png", metadata={"Software": None})
