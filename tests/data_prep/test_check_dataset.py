"""Faults put into a clean cohort: each is found and named, and the clean cohort has none."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from data_prep.check_dataset import all_findings, as_json, see_all, splits_and_ranges
from data_prep.dataset_check import page
from data_prep.dataset_check.coarse import coarse_volume
from data_prep.dataset_check.judge import FATAL, WARNING, findings_of
from data_prep.dataset_check.measure import see
from edm3d.data.manifest import Scan, Ventilation, read_rows
from edm3d.data.volumes import Grid, Volume
from tests.data.dicom_phantoms import write_series
from tests.data.phantoms import axial_grid, chest, lung_mask, write_nifti
from tests.data_prep.chests import GRID, SHAPE, SPACING_MM, body_hu, rows_of, write_scans
from tests.data_prep.test_build_records import CONFIG, REPOSITORY, peak_bytes


def check(manifest, config=None):
    """Everything seen of a manifest and all findings, in this process."""
    rows = read_rows(manifest)
    scans, ranges = splits_and_ranges(rows, config, False)
    seen = see_all(rows, 1)
    return seen, all_findings(rows, seen, ranges, scans)


def kinds(findings, level=None):
    return {(f.kind, f.rows) for f in findings if level in (None, f.level)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    rows = [*rows_of("p", "train"), *rows_of("q", "val", "prone"), *rows_of("r", "test")]
    return write_scans(folder, rows, {})


def test_a_clean_cohort_has_no_findings(clean):
    seen, findings = check(clean)
    assert findings == []
    assert len(seen) == 6 and all(one.picture[:2] == b"\xff\xd8" for one in seen)


def test_measures_of_a_clean_scan_are_those_it_was_made_with(clean):
    seen, _ = check(clean)
    expired, inspired, prone = (seen[i].measured for i in (0, 1, 2))
    ellipsoid_ml = 4 / 3 * np.pi * 38 * 55 * 70 / 1000
    for volume_ml in (expired.right_ml, expired.left_ml):
        # The mask closes over its edge; voxels of 4 mm round it off.
        assert volume_ml == pytest.approx(ellipsoid_ml, rel=0.05)
    assert inspired.tissue_g == pytest.approx(expired.tissue_g, rel=0.05)
    assert expired.air_hu == pytest.approx(-1000, abs=2)
    assert expired.tissue_hu == pytest.approx(40, abs=5)
    assert expired.couch_side > 0.9 and prone.couch_side < -0.9
    assert expired.spine_side > 0.5 and expired.oblique_deg < 1e-3


def cut(part) -> tuple[np.ndarray, Grid]:
    """The usual chest and its grid, cut to a part; half-way slices are as long as the shape."""
    hu = body_hu()[part]
    starts = [s.start or 0 for s in part]
    return hu, axial_grid(hu.shape, SPACING_MM, [s * SPACING_MM for s in reversed(starts)])


def whole(hu) -> tuple[np.ndarray, Grid]:
    return np.asarray(hu).clip(-1024, 3000).astype(np.int16), GRID


def masked_background() -> np.ndarray:
    hu = body_hu().astype(int)
    hu[:, :, :8] = hu[:, :, -8:] = hu[:, :6] = hu[:, -6:] = 0
    return hu


def collapsed(where: np.ndarray) -> np.ndarray:
    """The usual chest with tissue instead of lung at some voxels."""
    hu = body_hu()
    return np.where(where & (hu > -900) & (hu < -500), 30, hu)


ALL = slice(None)
CHANGED = {  # what the expiration of p becomes, and the finding that names it
    "HU shifted by +1000": (lambda: whole(body_hu() + 1000.0), FATAL, "unreadable"),
    "HU shifted by +1000 beside padding": (
        lambda: whole(np.where(np.indices(SHAPE)[2] < 9, -1024, body_hu() + 1000.0)),
        FATAL,
        "lungs",
    ),
    "HU shifted by +60": (lambda: whole(body_hu() + 60.0), WARNING, "tissue"),
    "HU shifted by -200": (lambda: whole(np.maximum(body_hu() - 200.0, -1024)), FATAL, "tissue"),
    "HU halved": (lambda: whole(body_hu() / 2), FATAL, "air"),
    "no air": (lambda: whole(np.maximum(body_hu(), -150)), FATAL, "unreadable"),
    "lungs without air": (
        lambda: whole(np.where(body_hu() < -900, body_hu(), np.maximum(body_hu(), 20))),
        FATAL,
        "lungs",
    ),
    "background masked with 0": (lambda: whole(masked_background()), FATAL, "masked"),
    "cut through the lungs below": (
        lambda: cut((slice(22, None), ALL, ALL)),
        FATAL,
        "field of view",
    ),
    "lungs cut above": (lambda: cut((slice(0, 28), ALL, ALL)), FATAL, "field of view"),
    "cut through the right lung": (
        lambda: cut((ALL, ALL, slice(21, None))),
        FATAL,
        "field of view",
    ),
    "left lung cut": (lambda: cut((ALL, ALL, slice(0, 51))), FATAL, "field of view"),
    "one lung only": (
        lambda: whole(collapsed(np.indices(SHAPE)[2] > 36)),
        FATAL,
        "one lung",
    ),
    "front and back swapped": (lambda: whole(body_hu()[:, ::-1]), FATAL, "orientation"),
    "voxels ten times too small": (
        lambda: (body_hu(), axial_grid(SHAPE, 0.4)),
        WARNING,
        "extent",
    ),
    "thick voxels": (lambda: (body_hu(), axial_grid(SHAPE, 7.0)), WARNING, "spacing"),
    "turned axes": (lambda: (body_hu(), turned(30)), WARNING, "oblique"),
    "mostly padding": (
        lambda: whole(np.where(np.indices(SHAPE)[0] < 33, -1024, body_hu())),
        WARNING,
        "padding",
    ),
    "other frame": (lambda: (body_hu(), axial_grid(SHAPE, 4.0, (0, 0, 900))), FATAL, "overlap"),
}


def turned(degrees: float) -> Grid:
    angle = np.radians(degrees)
    affine = GRID.affine_lps.copy()
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine[:3, :3] = np.array(turn) @ affine[:3, :3]
    return Grid(SHAPE, affine)


@pytest.mark.parametrize("fault", CHANGED)
def test_a_fault_of_a_scan_is_found_and_named(tmp_path, fault):
    change, level, kind = CHANGED[fault]
    rows = rows_of("p", "train")
    _, findings = check(write_scans(tmp_path, rows, {"p_ee.nii.gz": change()}))
    named = [f for f in findings if f.kind == kind and f.level == level]
    assert named and any(2 in f.rows for f in named), findings
    assert all(f.rows != (3,) for f in named)  # not the sound scan


def test_swapped_phases_are_fatal(tmp_path):
    rows = rows_of("p", "train")
    rows[0]["phase"], rows[1]["phase"] = rows[1]["phase"], rows[0]["phase"]
    _, findings = check(write_scans(tmp_path, rows, {}))
    assert ("phase", (3, 2)) in kinds(findings, FATAL)


def test_a_scan_of_another_lung_shows_by_volume_and_tissue(tmp_path):
    rows = rows_of("p", "train")
    rows.append({**rows[1], "scan": "ei2", "ct": "p_ei2.nii.gz", "peep_cmh2o": 10})
    small = collapsed(np.abs(np.indices(SHAPE)[0] - 24.5) > 4)
    _, findings = check(write_scans(tmp_path, rows, {"p_ei2.nii.gz": whole(small)}))
    assert ("tissue mass", (4,)) in kinds(findings, WARNING)
    assert ("lung volume", (4, 3)) in kinds(findings, WARNING)


def test_a_breath_unlike_the_tidal_volume_is_told(tmp_path):
    manifest = write_scans(tmp_path, rows_of("p", "train"), {})
    text = manifest.read_text().splitlines()
    for weight, expected in ((30, False), (300, True)):
        lines = [f"{text[0]},weight_kg", *(f"{line},{weight}" for line in text[1:])]
        manifest.write_text("\n".join(lines) + "\n")
        _, findings = check(manifest)
        assert (("tidal volume", (2, 3)) in kinds(findings, WARNING)) is expected


def test_a_position_against_the_couch_is_told_with_its_confidence(tmp_path):
    rows = rows_of("p", "train")
    manifest = write_scans(tmp_path, rows, {"p_ee.nii.gz": (body_hu(prone=True), GRID)})
    _, findings = check(manifest)
    (told,) = [f for f in findings if f.kind == "position"]
    assert told.rows == (2,) and "prone side (confidence 1.00)" in told.message


def test_a_copied_image_is_fatal(tmp_path):
    rows = rows_of("p", "train")
    _, findings = check(write_scans(tmp_path, rows, {"p_ei.nii.gz": (body_hu(1.0, 0), GRID)}))
    assert ("copy", (2, 3)) in kinds(findings, FATAL)


def test_a_mask_far_from_the_lungs_is_told(tmp_path):
    rows = rows_of("p", "train")
    far = np.zeros(SHAPE, np.uint8)
    far[:10, :20, :20] = 1
    write_nifti(tmp_path / "far.nii.gz", far, GRID)
    rows[0]["lung_mask"] = "far.nii.gz"
    _, findings = check(write_scans(tmp_path, rows, {}))
    assert kinds(findings) - {("split", ())} == {("mask", (2,))}
    assert ("mask", (2,)) in kinds(findings, WARNING)


MASKS = {  # labels and grid that the records refuse as well
    "another grid": (np.ones(SHAPE, np.uint8), axial_grid(SHAPE, 4.0, (8.0, 0, 0))),
    "0 everywhere": (np.zeros(SHAPE, np.uint8), GRID),
    "to the left of label 2": (np.array([0, 2, 1], np.uint8)[lung_mask(SHAPE)], GRID),
    "labels 0, 2, 3, 5": (np.full(SHAPE, 5, np.uint8), GRID),
}


@pytest.mark.parametrize("fault", MASKS)
def test_a_mask_that_no_records_are_made_of_is_fatal_and_its_scan_is_seen_all_the_same(
    tmp_path, fault
):
    rows = rows_of("p", "train")
    values, grid = MASKS[fault]
    if fault.endswith("5"):
        values.flat[:3] = 0, 2, 3
    write_nifti(tmp_path / "mask.nii.gz", values, grid)
    rows[0]["lung_mask"] = "mask.nii.gz"
    seen, findings = check(write_scans(tmp_path, rows, {}))
    (told,) = [f for f in findings if f.rows == (2,)]
    assert (told.level, told.kind) == (FATAL, "mask") and fault in told.message
    assert seen[0].picture and json.loads(as_json(seen, findings, []))["fatal"] == 1


def test_all_faults_of_table_scans_and_sessions_come_in_one_run(tmp_path):
    rows = [*rows_of("p", "train"), *rows_of("q", "train"), *rows_of("s", "val")[:1]]
    rows[1]["split"] = "val"  # a subject in two splits
    rows.append({**rows_of("t", "train")[0], "phase": "exhaled"})
    rows.append({**rows_of("u", "train")[0], "ct": "missing.nii.gz"})
    manifest = write_scans(tmp_path, rows, {"q_ee.nii.gz": whole(body_hu() + 1000.0)})
    (tmp_path / "missing.nii.gz").unlink()
    (tmp_path / "q_ei.nii.gz").write_bytes(b"junk")
    _, findings = check(manifest)
    fatal = kinds(findings, FATAL)
    assert {("manifest", (row,)) for row in (3, 7, 8)} <= fatal
    assert {("unreadable", (4,)), ("unreadable", (5,))} <= fatal
    assert ("no partner", (6,)) in kinds(findings, WARNING)


def test_blocks_are_averaged_and_leftover_voxels_dropped():
    values = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
    found, spacing = coarse_volume(Volume(values, Grid((5, 4, 3), np.diag([9.0, 1.0, 2.0, 1.0]))))
    assert spacing == (4.0, 4.0, 9.0) and found.shape == (2, 1, 3)
    np.testing.assert_allclose(found[1, 0], values[2:4].mean(axis=(0, 1)))


def test_a_scan_and_its_mask_are_not_in_memory_together(tmp_path):
    grid = axial_grid((160, 180, 200), 1.5)
    write_nifti(tmp_path / "ct.nii.gz", chest(grid.shape_zyx), grid)
    write_nifti(tmp_path / "mask.nii.gz", lung_mask(grid.shape_zyx), grid)
    scan = Scan(2, "p", "a", "early", "supine", Ventilation(5, 8, "inspiration"), tmp_path)
    scan = replace(scan, ct=tmp_path / "ct.nii.gz", lung_mask=tmp_path / "mask.nii.gz")
    assert see(scan).measured is not None  # what is imported once
    # Reading holds the stored int16 beside float32: 1.5 times; the mask's float32 would add 1.
    assert peak_bytes(lambda: see(scan)) < 1.9 * 4 * np.prod(grid.shape_zyx)


def test_splits_without_pairs_are_told(tmp_path):
    _, findings = check(write_scans(tmp_path, rows_of("p", "test"), {}))
    assert kinds(findings, FATAL) == {("split", ())}
    assert [f.where for f in findings] == ["train", "val"]


def test_the_header_of_dicom_is_held_against_the_manifest(real_data):
    series = real_data / "dicom" / "popi_4dct_phase10"
    scan = Scan(2, "p", "a", "early", "supine", Ventilation(5, 8, "inspiration"), series)
    assert kinds(findings_of(see(scan)), FATAL) == set()
    prone = see(replace(scan, position="prone"))
    assert kinds(findings_of(prone), FATAL) == {("position", (2,))}
    assert ("position", (2,)) in kinds(findings_of(prone), WARNING)  # the couch says so too


@pytest.mark.parametrize(("code", "side"), [("HFDR", "right"), ("FFDL", "left")])
def test_a_subject_on_its_side_is_fatal_whatever_the_manifest_says(tmp_path, code, side):
    write_series(tmp_path / "s", change=lambda _, f: f | {0x00185100: ("CS", code)})
    for position in ("supine", "prone"):
        scan = Scan(
            2, "p", "a", "early", position, Ventilation(5, 8, "inspiration"), tmp_path / "s"
        )
        (told,) = [f for f in findings_of(see(scan)) if f.kind == "position"]
        assert told.level == FATAL and f"the header says {side} decubitus" in told.message
        assert "leave it out" in told.message


def test_real_chests_are_read_without_fatal_findings(real_data):
    for name in ("lungdx_A0001/ct_kernelB", "4dlung_P113_phase40/ct", "popi_4dct_5mm/phase60"):
        path = real_data / "real" / f"{name}.nii.gz"
        scan = Scan(2, "p", "a", "early", "supine", Ventilation(5, 8, "inspiration"), path)
        assert kinds(findings_of(see(scan)), FATAL) == set()


def test_a_crop_of_one_real_lung_is_refused(real_data):
    path = real_data / "real" / "elastix_rightlung" / "baseline.nii.gz"
    scan = Scan(2, "p", "a", "early", "supine", Ventilation(5, 8, "inspiration"), path)
    assert ("field of view", (2,)) in kinds(findings_of(see(scan)), FATAL)


def test_the_page_stands_alone_and_escapes_what_the_table_holds(clean):
    seen, findings = check(clean)
    nasty = "<script>alert(1)</script>"
    one = replace(seen[0], scan=replace(seen[0].scan, subject=nasty))
    text = page.render([one, *seen[1:]], findings, [nasty])
    assert nasty not in text and "&lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 6
    assert "http" not in text and "<script" not in text and "prefers-color-scheme: dark" in text


def test_json_has_no_nan_and_says_what_was_found(clean):
    seen, findings = check(clean)
    blind = replace(seen[0], measured=replace(seen[0].measured, spine_side=float("nan")))
    content = json.loads(as_json([blind], findings, ["fine"]))
    assert content["scans"][0]["spine_side"] is None and content["fatal"] == 0


def command(manifest, *more):
    config = manifest.with_name("config.py")
    config.write_text(CONFIG)
    script = str(REPOSITORY / "data_prep" / "check_dataset.py")
    return subprocess.run(
        [sys.executable, script, f"--manifest={manifest}", f"--config={config}", *more],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_the_command_ends_with_0_for_a_clean_cohort_and_writes_its_page(clean, tmp_path):
    done = command(clean, f"--html={tmp_path}/check/page.html", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert "0 fatal, 0 warnings in 6 scans of 3 subjects" in done.stdout
    assert "train 2, val 2, test 2" in done.stdout
    assert [p.name for p in (tmp_path / "check").iterdir()] == ["page.html"]


def test_the_command_ends_with_2_for_a_fatal_fault_and_tells_it_to_machines(tmp_path):
    rows = rows_of("p", "train")
    rows[0]["peep_cmh2o"] = 25  # outside the config's range
    done = command(write_scans(tmp_path, rows, {}), "--json", "--workers=1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    content = json.loads(done.stdout)
    assert [f["kind"] for f in content["findings"] if f["level"] == "fatal"] == ["range"]
    assert command(tmp_path / "none.csv").returncode == 2
