"""A chest with spine and couch on which thresholds find what they look for, and its cohort."""

from pathlib import Path

import numpy as np

from edm3d.data.volumes import Grid, write_nifti
from tests.data.phantoms import axial_grid, write_manifest

SHAPE, SPACING_MM = (50, 64, 72), 4.0
GRID = axial_grid(SHAPE, SPACING_MM)


def body_hu(inflation: float = 1.0, seed: int = 0, prone: bool = False) -> np.ndarray:
    """int16 HU `[z, y, x]`; the lungs' volume and gas grow with `inflation`, their tissue stays."""
    z, y, x = ((np.arange(n) - (n - 1) / 2) * SPACING_MM for n in SHAPE)
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    hu = np.full(SHAPE, -1000.0)
    hu[np.broadcast_to((x / 120) ** 2 + (y / 85) ** 2 < 1, SHAPE)] = 40.0
    lungs = ((np.abs(x) - 58) / 38) ** 2 + ((y + 5) / 55) ** 2 + (z / (70 * inflation)) ** 2 < 1
    hu[lungs] = 1000 * (0.3 / inflation - 1)
    hu[np.broadcast_to(x**2 + (y - 62) ** 2 < 14**2, SHAPE)] = 500.0
    couch = np.abs(y - (-97 if prone else 97)) < 3
    hu[np.broadcast_to(couch & (np.abs(x) < 130), SHAPE)] = -150.0
    noise = np.random.default_rng(seed).normal(0, 12, SHAPE)
    return np.rint(hu + noise).clip(-1024, 3000).astype(np.int16)


def rows_of(subject: str, split: str, position: str = "supine") -> list[dict]:
    """Manifest rows of an expiration and an inspiration at one PEEP."""
    common = dict(subject=subject, stage="early", position=position, peep_cmh2o=5, split=split)
    common |= dict(tidal_volume_ml_kg=8)
    return [
        {**common, "scan": scan, "phase": phase, "ct": f"{subject}_{scan}.nii.gz"}
        for scan, phase in (("ee", "expiration"), ("ei", "inspiration"))
    ]


def write_scans(
    folder: Path, rows: list[dict], changed: dict[str, tuple[np.ndarray, Grid]]
) -> Path:
    """Files and manifest of `rows`; `changed` gives values and grid of some file names."""
    for number, row in enumerate(rows):
        inflation = 1.0 if row["scan"].startswith("ee") else 1.2
        usual = body_hu(inflation, number, row["position"] == "prone")
        hu, grid = changed.get(row["ct"], (usual, GRID))
        write_nifti(folder / row["ct"], hu, grid)
    return write_manifest(folder, rows)
