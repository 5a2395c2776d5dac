"""Small chests and their manifests for the tests."""

import csv
import itertools
from pathlib import Path

import numpy as np

from edm3d.data.cases import Case, ScalarRanges, Ventilation
from edm3d.data.projection import line_integrals
from edm3d.data.shards import RecordSettings
from edm3d.data.volumes import Grid, write_nifti

RANGES = ScalarRanges((3.0, 15.0), (6.0, 12.0))
COLUMNS = "subject,scan,stage,position,phase,peep_cmh2o,tidal_volume_ml_kg,ct,lung_mask,split"


def axial_grid(shape_zyx, spacing_mm=4.0, origin=(0.0, 0.0, 0.0)) -> Grid:
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = origin
    return Grid(tuple(shape_zyx), affine)


def chest(shape_zyx, lung_hu=-700.0, seed=0) -> np.ndarray:
    """int16 HU: an elliptic body in air with two lungs, each voxel noisy."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape_zyx), indexing="ij")
    lungs = lung_mask(shape_zyx) > 0
    body = x**2 / 0.9 + y**2 / 0.7 < 1
    noise = np.random.default_rng(seed).normal(0, 20, shape_zyx)
    values = np.where(lungs, lung_hu, np.where(body, 40.0, -1000.0)) + noise + 0 * z
    return np.clip(np.rint(values), -1024, 3000).astype(np.int16)


def lung_mask(shape_zyx) -> np.ndarray:
    """uint8: 1 right (low x), 2 left."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape_zyx), indexing="ij")
    inside = (np.abs(x) - 0.45) ** 2 / 0.1 + y**2 / 0.3 + z**2 < 0.8
    return np.where(inside, np.where(x < 0, 1, 2), 0).astype(np.uint8)


def settings(**changes) -> RecordSettings:
    fields = dict(
        spacing_mm=5.0,
        window_hu=(-1024.0, 1024.0),
        block=160,
        antialias=False,
        mu_water_per_mm=0.0206,
        scalar_ranges=RANGES,
    )
    return RecordSettings(**{**fields, **changes})


def random_case(shape_zyx, start=(0, 0, 0), block=None, seed=0, **changes) -> Case:
    """A case of noise; with `block`, the block of it that begins at `start`."""
    rng = np.random.default_rng(seed)
    prior, target = rng.integers(-1024, 1500, (2, *shape_zyx)).astype(np.int16)
    pa, lat = line_integrals(target, spacing_mm=2.0)
    prior_pa, prior_lat = line_integrals(prior, spacing_mm=2.0)
    part = tuple(slice(a, a + n) for a, n in zip(start, block or shape_zyx, strict=True))
    fields = dict(
        case_id="pig1__a__b",
        subject="pig1",
        prior_scan="a",
        target_scan="b",
        stage="early",
        position="prone",
        prior_ventilation=Ventilation(3.0, 6.0, "expiration"),
        target_ventilation=Ventilation(15.0, 9.0, "inspiration"),
        prior_hu=prior[part],
        target_hu=target[part],
        xray_pa=pa,
        xray_lat=lat,
        prior_xray_pa=prior_pa,
        prior_xray_lat=prior_lat,
        affine_lps=axial_grid(shape_zyx, 2.0).affine_lps,
        volume_shape_zyx=tuple(shape_zyx),
        block_start_zyx=tuple(start),
    )
    return Case(**{**fields, **changes})


def write_manifest(folder: Path, rows: list[dict], name="scans.csv") -> Path:
    path = folder / name
    with open(path, "w", newline="") as file:
        more = sorted({*itertools.chain(*rows)} - {*COLUMNS.split(",")})
        writer = csv.DictWriter(file, [*COLUMNS.split(","), *more])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_cohort(folder: Path, subjects: dict[str, str], shape_zyx=(20, 26, 30)) -> Path:
    """A manifest of three scans a subject; `subjects` names each one's split ('' for none)."""
    rows = []
    settings_of_scan = [("a", 3, "expiration"), ("b", 8, "expiration"), ("c", 8, "inspiration")]
    for number, (subject, split) in enumerate(subjects.items()):
        grid = axial_grid(shape_zyx, origin=(5.0 * number, -7.0, 100.0))
        for index, (scan, peep, phase) in enumerate(settings_of_scan):
            stem = f"{subject}_{scan}"
            hu = chest(shape_zyx, -600.0 - 80 * index, seed=10 * number + index)
            write_nifti(folder / f"{stem}.nii.gz", hu, grid)
            write_nifti(folder / f"{stem}_mask.nii.gz", lung_mask(shape_zyx), grid)
            rows.append(
                dict(subject=subject, scan=scan, stage="early", position="supine", phase=phase)
                | dict(peep_cmh2o=peep, tidal_volume_ml_kg=8, ct=f"{stem}.nii.gz")
                | dict(lung_mask=f"{stem}_mask.nii.gz", split=split)
            )
    return write_manifest(folder, rows)
