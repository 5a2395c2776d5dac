"""The picture of a sample sheet: a row a patch; prior, generated, target and difference.

Shapes: n patches, z y x voxels in HU. Windows are those of the report, so that sheets of different
updates and runs can be laid side by side.
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edm3d.report.windows import DIFFERENCE_HU, WINDOW_HU

COLUMNS = ("prior", "generated", "target", "generated - target")
_INCH = 2.1


def sheet(
    prior_hu: np.ndarray, generated_hu: np.ndarray, target_hu: np.ndarray, *, title: str
) -> Figure:
    """The middle coronal plane of each patch, head on top; all arrays `[n, z, y, x]`."""
    n = len(prior_hu)
    figure = Figure(figsize=(4 * _INCH, n * _INCH + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(n, 4, squeeze=False)
    for row, volumes in zip(axes, zip(prior_hu, generated_hu, target_hu, strict=True), strict=True):
        prior, generated, target = (_coronal(v).astype(np.float32) for v in volumes)
        for axis, plane in zip(row, (prior, generated, target), strict=False):
            axis.imshow(plane, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
        low, high = DIFFERENCE_HU
        row[3].imshow(generated - target, cmap="RdBu_r", vmin=low, vmax=high)
        for axis, plane in zip(row, (prior, generated), strict=False):
            error = np.abs(plane - target).mean()
            axis.set_xlabel(f"mean absolute error {error:.0f} HU", fontsize=7)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(name, fontsize=8)
    return figure


def rgb(figure: Figure, dpi: int = 100) -> np.ndarray:
    """uint8 `[height, width, 3]` of the figure."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _coronal(volume: np.ndarray) -> np.ndarray:
    """`[z, x]` from the top down."""
    return volume[::-1, volume.shape[1] // 2]
