"""Cohorts whose scans name films of their own, and targets that have nothing else."""

import csv
import shutil

import numpy as np

from edm3d.data.manifest import read_manifest
from edm3d.data.projection import xray
from edm3d.data.volumes import read_ct, resample, working_grid
from edm3d.data.xray_geometry import Geometry
from tests.data.films import write_dicom
from tests.data.phantoms import write_cohort
from tests.data.test_film_match import film_pixels

SPLITS = {"p": "train", "q": "test"}


def with_films(folder, films, pixel_mm=None):
    """A cohort whose scan b of every subject names its own copy of `films` (view: file name)."""
    manifest = write_cohort(folder, SPLITS)
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        own = {view: f"{row['subject']}_{name}" for view, name in films.items()}
        row |= {f"xray_{view}": own[view] if row["scan"] == "b" else "" for view in films}
        sizes = {f"xray_{view}_pixel_mm": mm for view, mm in (pixel_mm or {}).items()}
        row |= sizes if row["scan"] == "b" else dict.fromkeys(sizes, "")
        for view, name in films.items():
            shutil.copy(folder / name, folder / own[view])
    with open(manifest, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def film_of(folder, view, subject="q"):
    """What a film of the subject's scan b shows, 16 bit, four pixels a voxel of 5 mm."""
    plain = write_cohort(folder, SPLITS)
    (scan,) = [s for s in read_manifest(plain) if (s.subject, s.scan) == (subject, "b")]
    ct = read_ct(scan.ct)
    hu = resample(ct, working_grid(ct.grid, 5.0))
    image = xray(hu, view, Geometry(), spacing_mm=5.0)
    return np.rint(500 + 400 * film_pixels(image)).astype(np.uint16)


def without_ct(folder, subjects=("p", "q")):
    """A cohort whose scan b of each of `subjects` has both films and no CT."""
    pixels = {view: film_of(folder, view) for view in ("pa", "lat")}
    for view, values in pixels.items():
        write_dicom(folder / f"{view}.dcm", values, imager_spacing_mm=(1.25, 1.25))
    manifest = with_films(folder, {"pa": "pa.dcm", "lat": "lat.dcm"})
    lines = manifest.read_text().splitlines()
    for subject in subjects:
        (folder / f"{subject}_b.nii.gz").unlink()
        lines = [line.replace(f"{subject}_b.nii.gz,{subject}_b_mask.nii.gz", ",") for line in lines]
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
