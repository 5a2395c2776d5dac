import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edm3d.data import shards
from edm3d.data.cases import read_cases, read_dataset_info
from edm3d.data.manifest import Scan, read_manifest
from edm3d.data.projection import line_integrals
from edm3d.data.records import cases_of_manifest, check_settings, write_records
from edm3d.data.volumes import (
    Grid,
    Volume,
    read_ct,
    read_grid,
    resample,
    working_grid,
    write_nifti,
)
from edm3d.errors import InputError
from tests.data.phantoms import (
    RANGES,
    axial_grid,
    chest,
    lung_mask,
    settings,
    write_cohort,
    write_manifest,
)

REPOSITORY = Path(__file__).parents[2]
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    data = dict(
        spacing_mm=6.0,
        window_hu=(-1024.0, 1024.0),
        block=160,
        antialias=False,
        mu_water_per_mm=0.0206,
        scalar_ranges=dict(peep_cmh2o=(3.0, 15.0), tidal_volume_ml_kg=(6.0, 12.0)),
        split_fractions=dict(train=0.5, val=0.25, test=0.25),
    )
    return ConfigDict(dict(seed=0, data=data))
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return write_cohort(folder, {"p": "train", "q": "train", "r": "val", "s": "test"})


@pytest.fixture(scope="module")
def records(cohort):
    out = cohort.parent / "records"
    write_records(read_manifest(cohort), out, settings(block=12), seed=0)
    return out


def test_counts_subjects_and_files_are_what_the_manifest_holds(records):
    info = read_dataset_info(records)
    assert info.subjects == {"train": ["p", "q"], "val": ["r"], "test": ["s"]}
    # Three scans a subject give six pairs; (20, 26, 30) voxels of 4 mm are (16, 21, 24) of 5 mm.
    assert info.counts["train"] == {"cases": 12, "records": 12 * 2 * 2 * 3}
    assert info.counts["test"] == {"cases": 6, "records": 6}
    assert {f.name for f in records.iterdir()} == {*info.files, "dataset.json"}
    assert info.split_by == "subject" and info.scalar_ranges == RANGES


def assert_residual_std_is_direct(folder):
    info = read_dataset_info(folder)
    low, high = info.window_hu
    residuals = [
        np.clip(c.target_hu / 1024, low / 1024, high / 1024)
        - np.clip(c.prior_hu / 1024, low / 1024, high / 1024)
        for c in read_cases(folder, "train")
    ]
    std = np.std(np.concatenate([r.ravel() for r in residuals]))
    assert info.residual_std == pytest.approx(std, rel=1e-9) and std > 0.01


def test_residual_std_is_that_of_the_training_records(records):
    assert_residual_std_is_direct(records)


def test_blocks_are_parts_of_the_volume_and_cover_it(records, cohort):
    whole = {c.case_id: c for c in cases_of_manifest(cohort, read_dataset_info(records))}
    covered = {}
    for case in read_cases(records, "train"):
        volume = whole[case.case_id]
        part = tuple(
            slice(a, a + n) for a, n in zip(case.block_start_zyx, case.prior_hu.shape, strict=True)
        )
        np.testing.assert_array_equal(case.prior_hu, volume.prior_hu[part])
        np.testing.assert_array_equal(case.target_hu, volume.target_hu[part])
        np.testing.assert_array_equal(case.xray_pa, volume.xray_pa)
        assert max(case.prior_hu.shape) <= 12 and case.prior_lung_mask is None
        covered.setdefault(case.case_id, np.zeros(volume.volume_shape_zyx, bool))[part] = True
    assert len(covered) == 12 and all(mask.all() for mask in covered.values())


def test_the_pairs_of_a_manifest_share_the_reading_of_their_scans(records, cohort, monkeypatch):
    read = []

    def counting(scan, *rest):
        read.append((scan.subject, scan.scan))
        return shards.read_on_grid(scan, *rest)

    monkeypatch.setattr("edm3d.data.records.read_on_grid", counting)
    cases = cases_of_manifest(cohort, read_dataset_info(records))
    assert len([case.case_id for case in cases]) == 24
    assert len(read) == len(set(read)) == 12  # four subjects of three scans


def test_a_test_case_is_the_resampled_pair_with_xrays_of_the_target(records, cohort):
    scans = {s.scan: s for s in read_manifest(cohort) if s.subject == "s"}
    for case in read_cases(records, "test"):
        prior, target = (read_ct(scans[n].ct) for n in (case.prior_scan, case.target_scan))
        grid = working_grid(prior.grid, 5.0)
        assert case.is_whole and case.volume_shape_zyx == grid.shape_zyx
        np.testing.assert_allclose(case.affine_lps, grid.affine_lps)
        np.testing.assert_allclose(case.target_hu, resample(target, grid), atol=0.5)
        np.testing.assert_allclose(case.prior_hu, resample(prior, grid), atol=0.5)
        views = (
            line_integrals(case.target_hu, spacing_mm=5.0),
            line_integrals(case.prior_hu, spacing_mm=5.0),
        )
        np.testing.assert_array_equal(case.xray_pa, views[0][0])
        np.testing.assert_array_equal(case.xray_lat, views[0][1])
        np.testing.assert_array_equal(case.prior_xray_pa, views[1][0])
        np.testing.assert_array_equal(case.prior_xray_lat, views[1][1])
        middle = case.volume_shape_zyx[2] // 2
        assert set(np.unique(case.target_lung_mask[..., :middle])) == {0, 1}
        assert set(np.unique(case.prior_lung_mask[..., middle:])) == {0, 2}
        assert case.target_ventilation == scans[case.target_scan].ventilation
        assert case.prior_ventilation == scans[case.prior_scan].ventilation


def test_the_target_comes_in_scanner_coordinates_to_the_priors_grid(tmp_path):
    """Two scans of one body with different grids: their residual is interpolation and no shift."""
    shape = (24, 28, 32)
    first = axial_grid(shape, 4.0, (-60.0, 10.0, 5.0))
    smooth = Volume(chest(shape).astype(np.float32), first)
    second = working_grid(axial_grid((20, 24, 28), 4.3, (-58.0, 13.0, 9.0)), 3.1)
    write_nifti(tmp_path / "a.nii.gz", chest(shape), first)
    write_nifti(tmp_path / "b.nii.gz", resample(smooth, second).round().astype(np.int16), second)
    common = dict(subject="p", stage="early", position="prone", phase="inspiration")
    common |= dict(peep_cmh2o=5, tidal_volume_ml_kg=8, split="train")
    rows = [{**common, "scan": n, "ct": f"{n}.nii.gz"} for n in ("a", "b")]
    scans = read_manifest(write_manifest(tmp_path, rows))
    write_records(scans, tmp_path / "out", settings(), seed=0)
    grids = set()
    for case in read_cases(tmp_path / "out", "train"):
        grids.add(case.volume_shape_zyx)
        inside = (case.target_hu > -1024) & (case.prior_hu > -1024)
        assert np.corrcoef(case.target_hu[inside], case.prior_hu[inside])[0, 1] > 0.97
    assert len(grids) == 2
    assert_residual_std_is_direct(tmp_path / "out")


def test_records_are_the_same_for_one_and_two_workers(records, cohort):
    out = cohort.parent / "two_workers"
    write_records(read_manifest(cohort), out, settings(block=12), seed=0, workers=2)
    names = sorted(path.name for path in records.iterdir())
    assert names == sorted(path.name for path in out.iterdir())
    for name in names:
        assert (records / name).read_bytes() == (out / name).read_bytes()


def test_splits_by_pair_hold_the_test_scan_out_of_training(tmp_path):
    cohort = write_cohort(tmp_path, {"p": ""})
    text = cohort.read_text().splitlines()
    text[1:] = [
        line + split for line, split in zip(text[1:], ("train", "train", "test"), strict=True)
    ]
    cohort.write_text("\n".join(text) + "\n")
    scans = read_manifest(cohort, same_subject_splits=True)
    info, _ = write_records(scans, tmp_path / "out", settings(), seed=0, split_by="pair")
    assert info.split_by == read_dataset_info(tmp_path / "out").split_by == "pair"
    trained = {
        n for c in read_cases(tmp_path / "out", "train") for n in (c.prior_scan, c.target_scan)
    }
    assert trained == {"a", "b"}
    assert {c.target_scan for c in read_cases(tmp_path / "out", "test")} == {"c"}


def peak_bytes(function) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_reading_a_volume_takes_little_more_memory_than_its_values(tmp_path):
    grid = axial_grid((256, 64, 64))
    write_nifti(tmp_path / "ct.nii.gz", chest(grid.shape_zyx), grid)
    values = 4 * 256 * 64 * 64
    assert peak_bytes(lambda: read_ct(tmp_path / "ct.nii.gz")) < 1.6 * values


def test_memory_does_not_grow_with_the_scans_of_a_group(tmp_path):
    rows, grid = [], axial_grid((60, 70, 70))
    for number in range(12):
        write_nifti(tmp_path / f"{number}.nii.gz", chest(grid.shape_zyx, seed=number), grid)
        row = dict(subject="p", scan=number, stage="early", position="prone", phase="inspiration")
        rows.append({**row, "peep_cmh2o": 5, "tidal_volume_ml_kg": 8, "ct": f"{number}.nii.gz"})
    scans = [replace(s, split="train") for s in read_manifest(write_manifest(tmp_path, rows))]

    def peak(count: int) -> int:
        group = shards.Group(tuple(scans[:count]), {"train": "unused"})
        return peak_bytes(lambda: shards.write_group(group, settings(spacing_mm=4.0), tmp_path))

    peak(2)  # what is imported and cached once
    # Twelve scans kept in memory would be 7 MB of int16 beside a peak of 6 MB.
    assert peak(12) < 1.2 * peak(3)


def test_existing_records_are_kept_or_replaced_whole(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train"}))
    out = tmp_path / "out"
    write_records(scans, out, settings(), seed=0)
    with pytest.raises(InputError, match="not empty"):
        write_records(scans, out, settings(), seed=0)
    before = (out / "dataset.json").read_bytes()
    scans[0].ct.write_bytes(b"junk")
    with pytest.raises(InputError, match="readable NIfTI"):
        write_records(scans, out, settings(), seed=1, overwrite=True)
    assert (out / "dataset.json").read_bytes() == before
    write_records(scans[1:], out, settings(), seed=1, overwrite=True)
    assert read_dataset_info(out).seed == 1
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    with pytest.raises(InputError, match="holds no records"):
        write_records(scans[1:], tmp_path, settings(), seed=1, overwrite=True)


def test_faults_found_while_reading_leave_nothing_behind_where_nothing_is_finished(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train", "q": "train"}))
    for scan in (scans[1], scans[4]):
        grid = read_grid(scan.ct)
        write_nifti(scan.ct, np.full(grid.shape_zyx, np.nan, np.float32), grid)
    for workers in (1, 2):
        with pytest.raises(InputError, match="NaN"):
            write_records(scans, tmp_path / "out", settings(), seed=0, workers=workers)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_faults_of_scans_come_at_once_with_their_rows(tmp_path):
    cohort = write_cohort(tmp_path, {"p": "train"})
    cohort.write_text(cohort.read_text().replace(",3,8,", ",18,5,"))
    scans = read_manifest(cohort)
    scans[1].ct.write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError) as caught:
        write_records(scans, tmp_path / "out", settings(), seed=0)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "row 2, column peep_cmh2o is 18" in lines[0] and "3..15" in lines[0]
    assert "row 2, column tidal_volume_ml_kg is 5" in lines[1]
    assert "row 3" in lines[2] and "DICOM" in lines[2]


def test_an_out_that_cannot_be_written_is_refused(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train"}))
    with pytest.raises(InputError, match=r"cannot be written to .* change --out"):
        write_records(scans, scans[0].ct / "out", settings(), seed=0)
    with pytest.raises(InputError, match="is a file"):
        write_records(scans, scans[0].ct, settings(), seed=0)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch):
    class FullDisk:
        def __init__(self, path, options):
            Path(path).touch()

        def write(self, record):
            raise RuntimeError("write() failed: No space left on device\nmore")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", FullDisk)
    scans = read_manifest(write_cohort(tmp_path, {"p": "train"}))
    with pytest.raises(InputError, match=r"No space left on device\); free space"):
        write_records(scans, tmp_path / "out", settings(), seed=0)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def ellipsoids(grid):
    """Two lungs as labels 1 and 2, off the grid's centre, with their places in mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij"), -1)
    place = index[..., ::-1] @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]
    labels = np.zeros(grid.shape_zyx, np.uint8)
    for label, centre in ((1, (62.0, 119.0, 121.0)), (2, (171.0, 123.0, 118.0))):
        inside = (((place - centre) / (44.0, 60.0, 80.0)) ** 2).sum(-1) < 1
        labels[inside] = label
    return labels, place


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("spacing_mm", [8.0, 10.0])
def test_lung_labels_keep_place_and_volume_on_a_coarser_grid(tmp_path, spacing_mm, antialias):
    fine = axial_grid((60, 60, 60), spacing_mm / 2, (spacing_mm / 4,) * 3)
    labels, place = ellipsoids(fine)
    write_nifti(tmp_path / "ct.nii.gz", chest(fine.shape_zyx), fine)
    write_nifti(tmp_path / "mask.nii.gz", labels, fine)
    row = dict(subject="p", scan="a", stage="early", position="prone", phase="inspiration")
    row |= dict(peep_cmh2o=5, tidal_volume_ml_kg=8, ct="ct.nii.gz", lung_mask="mask.nii.gz")
    (scan,) = read_manifest(write_manifest(tmp_path, [row]))
    grid = working_grid(fine, spacing_mm)
    chosen = settings(spacing_mm=spacing_mm, antialias=antialias)
    found, coarse_place = shards.read_on_grid(scan, grid, chosen).lung_mask, ellipsoids(grid)[1]
    assert found.dtype == np.uint8
    for label in (1, 2):
        shift = coarse_place[found == label].mean(0) - place[labels == label].mean(0)
        # A twentieth of a voxel and more is left by chance; the nearest voxel shifts a quarter.
        np.testing.assert_allclose(shift, 0, atol=0.08 * spacing_mm)
        volume = 8 * np.count_nonzero(found == label) / np.count_nonzero(labels == label)
        assert volume == pytest.approx(1, abs=0.05)


def test_antialias_changes_the_records_as_told(tmp_path):
    manifest = write_cohort(tmp_path, {"p": "train"})
    built = {}
    for antialias in (False, True):
        out = tmp_path / f"out{antialias}"
        chosen = settings(spacing_mm=9.0, antialias=antialias)
        info, _ = write_records(read_manifest(manifest), out, chosen, seed=0)
        assert info.antialias is read_dataset_info(out).antialias is antialias
        built[antialias] = read_cases(out, "train")[0]
    scan = next(s for s in read_manifest(manifest) if s.scan == built[True].prior_scan)
    for antialias, case in built.items():
        direct = resample(read_ct(scan.ct), case.grid, antialias=antialias)
        np.testing.assert_allclose(case.prior_hu, direct, atol=0.5)
    assert np.abs(built[True].prior_hu - built[False].prior_hu).max() > 20


def move(scan: Scan, grid: Grid) -> None:
    """Writes another chest and its mask on `grid` for the scan."""
    assert scan.lung_mask is not None
    write_nifti(scan.ct, chest(grid.shape_zyx), grid)
    write_nifti(scan.lung_mask, lung_mask(grid.shape_zyx), grid)


def test_a_target_that_covers_part_of_its_prior_is_stated_and_half_of_it_refused(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train", "q": "test"}))
    shape, grid = (20, 26, 30), axial_grid((20, 26, 30), origin=(0.0, -7.0, 120.0))
    move(scans[1], grid)  # 4 mm voxels, 20 mm higher: 15 of 20 slices
    info, _ = write_records(scans, tmp_path / "out", settings(), seed=0)
    assert info.least_coverage == read_dataset_info(tmp_path / "out").least_coverage
    assert info.least_coverage["train"] == pytest.approx(0.75, abs=0.05)
    assert info.least_coverage["test"] == info.least_coverage["val"] == 1.0
    assert info.largest_volume_zyx["train"] == [16, 21, 24]
    assert info.largest_volume_zyx["val"] == [0, 0, 0]
    higher = axial_grid(shape, origin=(0.0, -7.0, 148.0))
    move(scans[1], higher)  # 8 of 20 slices
    with pytest.raises(InputError, match=r"covers 38% of .* share 50% of the prior"):
        write_records(scans, tmp_path / "more", settings(), seed=0)


def test_scans_of_different_frames_are_not_paired(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train"}))
    move(scans[1], axial_grid((20, 26, 30), origin=(9e3, 0, 0)))
    with pytest.raises(InputError, match="does not overlap"):
        write_records(scans, tmp_path / "out", settings(), seed=0)


@pytest.mark.parametrize(
    "changes, mend",
    [
        ({"spacing_mm": 0.0}, "positive"),
        ({"spacing_mm": float("nan")}, "positive"),
        ({"window_hu": (100.0, -100.0)}, "low and a higher"),
        ({"block": 4}, "at least 8"),
        ({"mu_water_per_mm": -1.0}, "positive"),
    ],
)
def test_settings_that_build_nothing_are_refused(changes, mend):
    with pytest.raises(InputError, match=mend):
        check_settings(settings(**changes))


def test_a_dataset_without_training_pairs_is_refused(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "test"}))
    with pytest.raises(InputError, match="no training pair"):
        write_records(scans, tmp_path / "out", settings(), seed=0)


def command(manifest, out, *more):
    config = Path(manifest).with_name("config.py")
    config.write_text(CONFIG)
    script = str(REPOSITORY / "data_prep" / "build_records.py")
    flags = [f"--manifest={manifest}", f"--out={out}", f"--config={config}", "--workers=1", *more]
    return subprocess.run(
        [sys.executable, script, *flags],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_the_command_builds_records_and_says_what_it_made(tmp_path):
    manifest = write_cohort(tmp_path, {name: "" for name in "pqrs"})
    done = command(manifest, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    info = read_dataset_info(tmp_path / "out")
    assert [len(info.subjects[s]) for s in ("train", "val", "test")] == [2, 1, 1]
    assert "train: 2 subjects, 12 pairs" in done.stdout and "residual std" in done.stdout


@pytest.mark.parametrize(
    "replace, flag, mend",
    [
        (("expiration", "exhale"), "", "inspiration or expiration"),
        ((",ct,", ",file,"), "", "no column 'ct'"),
        (("", ""), "--config.data.spacing_mm=-2", "positive"),
        (("", ""), "--config.data.spacings=2", "spacing"),
        (("", ""), "--same_subject_splits", "fill it for every scan"),
    ],
)
def test_bad_input_ends_the_command_with_clear_lines_and_nothing_written(
    tmp_path, replace, flag, mend
):
    manifest = write_cohort(tmp_path, {"p": ""})
    manifest.write_text(manifest.read_text().replace(*replace))
    done = command(manifest, tmp_path / "out", *filter(None, [flag]))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert lines and mend in lines[0] and "Traceback" not in done.stderr
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
