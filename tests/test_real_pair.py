"""The paper's method on a real 4D-CT, by the commands a user would run: phase 60 from phase 10."""

import csv
import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from edm3d.data.cases import read_cases
from edm3d.data.volumes import read_grid, working_grid
from edm3d.report.methods import SHARED_SUBJECTS
from tests.configurations import ROOT

CASE = "popi__phase10__phase60"
SETTINGS = [
    "--config.data.spacing_mm=16.0",
    "--config.data.antialias=False",
    "--config.patch=8",
    "--config.model.channels=4",
    "--config.model.channel_mult=(1,2)",
    "--config.train.batch=2",
    "--config.train.steps=2",
    "--config.train.validation_patches=2",
]


def _run(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _write_manifest(path, phases):
    """10 is the end of inspiration, 60 of expiration; free breathing, so scalars are constants."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            "subject scan stage position phase peep_cmh2o tidal_volume_ml_kg ct split".split()
        )
        for number in range(0, 100, 10):
            phase = "inspiration" if number in (80, 90, 0, 10, 20) else "expiration"
            split = {60: "test", 50: "val"}.get(number, "train")
            ct = phases / f"phase{number:02}.nii.gz"
            writer.writerow(
                ["popi", f"phase{number:02}", "early", "supine", phase, 5, 8, ct, split]
            )


@pytest.fixture(scope="module")
def chain(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("popi")
    manifest = folder / "scans.csv"
    _write_manifest(manifest, (real_data / "real/popi_4dct_5mm").resolve())
    config = ["--config=configs/quickstart.py", *SETTINGS]
    records, run = folder / "records", folder / "run"
    places = [f"--config.records={records}", f"--config.run={run}"]
    _run(
        "data_prep/build_records.py",
        f"--manifest={manifest}",
        f"--out={records}",
        "--same_subject_splits",
        "--allow_outside",
        "--workers=1",
        *config,
    )
    _run("-m", "edm3d.train", *config, *places)
    _run("-m", "edm3d.sample", f"--run={run}", "--nfe=3", "--protocol=opposite_phase")
    report = folder / "report"
    printed = _run(
        "-m",
        "edm3d.evaluate",
        f"--samples={run}/samples",
        f"--records={records}",
        f"--out={report}",
    )
    (folder / "evaluate.txt").write_text(printed)
    return folder


def test_phase_60_is_drawn_from_phase_10_where_the_prior_lies(chain, real_data):
    drawn = nibabel.load(chain / "run/samples" / CASE / "generated.nii.gz")
    path = real_data / "real/popi_4dct_5mm/phase10.nii.gz"
    hu = np.asarray(drawn.dataobj)
    assert hu.dtype == np.int16 and -1024 <= hu.min() and hu.max() <= 1024
    grid = working_grid(read_grid(path), 16.0)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert drawn.shape == grid.shape_zyx[::-1]
    np.testing.assert_allclose(drawn.affine, lps_to_ras @ grid.affine_lps, atol=1e-3)  # mm


def test_the_record_holds_the_source_at_the_same_scanner_points(chain, real_data):
    """By nibabel and SciPy alone, at points in the frame of the NIfTI file."""
    (case,) = (c for c in read_cases(chain / "records", "test") if c.case_id == CASE)
    source = nibabel.load(real_data / "real/popi_4dct_5mm/phase10.nii.gz")
    drawn = nibabel.load(chain / "run/samples" / CASE / "generated.nii.gz")
    index = np.stack(np.indices(drawn.shape), -1).reshape(-1, 3)
    points = nibabel.affines.apply_affine(drawn.affine, index)
    there = nibabel.affines.apply_affine(np.linalg.inv(source.affine), points)
    inside = np.all((there >= 0) & (there <= np.array(source.shape) - 1), axis=1)
    values = np.maximum(source.get_fdata(), -1024)
    expected = ndimage.map_coordinates(values, there[inside].T, order=1)
    found = case.prior_hu.transpose(2, 1, 0).reshape(-1)[inside]
    assert inside.mean() > 0.6
    np.testing.assert_allclose(found, expected, atol=0.51)  # stored in whole HU


def test_the_report_says_that_one_subject_proves_nothing_of_others(chain):
    metrics = json.loads((chain / "report/metrics.json").read_text())
    page = (chain / "report/report.html").read_text()
    assert CASE in page
    info = json.loads((chain / "records/dataset.json").read_text())
    assert info["split_by"] == "pair"
    assert SHARED_SUBJECTS in metrics["remarks"] and SHARED_SUBJECTS in page
    assert SHARED_SUBJECTS in (chain / "evaluate.txt").read_text()
