"""The cohort on disk: reproducible, complete for the paper's protocols, true to its tables."""

import itertools
import json
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from matplotlib import pyplot
from small_cohort import SMALL, files, table

from data_prep import make_virtual_cohort
from data_prep.virtual_pig import cohort as one_cohort
from data_prep.virtual_pig.cohort import STORED_AXES, PigJob, make_pig, pig_jobs
from data_prep.virtual_pig.contact_sheet import TILE, shown_scans
from data_prep.virtual_pig.design import most_scans, plan_scans, scans_of_pigs, split_of_pigs
from data_prep.virtual_pig.progress import Progress
from data_prep.virtual_pig.settings import PRESETS, CohortSettings
from edm3d.data.manifest import read_manifest
from edm3d.data.volumes import read_ct, read_mask


def test_same_seed_gives_the_same_bytes_on_any_number_of_workers(cohort, tmp_path):
    again = tmp_path / "again"
    make_virtual_cohort.make_cohort(again, SMALL, workers=2)
    first, second = files(cohort), files(again)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_pigs_of_a_cohort_differ(cohort):
    weights = {row["subject"]: row["weight_kg"] for row in table(cohort / "scans.csv")}
    assert len(set(weights.values())) == 3


def test_the_manifest_is_valid_and_every_split_has_a_pig(cohort):
    scans = read_manifest(cohort / "scans.csv")
    assert len(scans) == 18
    assert {scan.split for scan in scans} == {"train", "val", "test"}
    assert len({scan.position for scan in scans} | {scan.stage for scan in scans}) >= 3


def test_truth_has_a_line_for_every_scan_and_conserves_mass(cohort):
    truth = table(cohort / "truth.csv")
    named = [(row["subject"], row["scan"]) for row in table(cohort / "scans.csv")]
    assert [(row["subject"], row["scan"]) for row in truth] == named
    for _, rows in itertools.groupby(truth, key=lambda row: row["subject"]):
        mass = [float(row["tissue_g"]) for row in rows]
        assert np.ptp(mass) < 0.005 * np.mean(mass)


def test_delivered_tidal_volume_is_near_the_set_one_and_seen_in_the_gas(cohort):
    truth = {row["subject"] + row["scan"]: row for row in table(cohort / "truth.csv")}
    errors = []
    for name, row in truth.items():
        if not name.endswith("-ee"):
            continue
        delivered = float(row["tidal_volume_delivered_ml"])
        gained = float(truth[name[:-3] + "-ei"]["gas_ml"]) - float(row["gas_ml"])
        assert gained == pytest.approx(delivered, abs=max(8, 0.03 * delivered))  # 8 mm voxels
        if float(row["plateau_cmh2o"]) < 44.9:  # not at the pressure limit
            errors.append(delivered / float(row["tidal_volume_set_ml"]) - 1)
    assert len(errors) >= 3 and 0.005 < np.std(errors) < 0.08


def test_gas_maps_sum_to_the_gas_of_the_truth(cohort):
    """int16 in steps of 1e-4; the map lies on the CT's own grid."""
    truth = {row["subject"] + row["scan"]: row for row in table(cohort / "truth.csv")}
    for row in table(cohort / "scans.csv"):
        image = nibabel.load(cohort / row["ct"].replace(".nii.gz", "-gas.nii.gz"))
        ct = nibabel.load(cohort / row["ct"])
        np.testing.assert_array_equal(image.affine, ct.affine)
        assert image.get_data_dtype() == np.int16 and image.shape == ct.shape
        fraction = image.get_fdata()
        assert 0 <= fraction.min() and 0.5 < fraction.max() <= 1
        gas_ml = fraction.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000
        expected = float(truth[row["subject"] + row["scan"]]["gas_ml"])
        assert gas_ml == pytest.approx(expected, rel=1e-3)


def test_truth_has_units_in_its_names_and_its_parts_add_up(cohort):
    units = ("_ml", "_g", "_g_kg", "_fraction", "_cmh2o", "_cmh2o_kg", "_hu")
    bare = {"subject", "scan", "severity", "inflation_q", "mass_correction", "seed"}
    for row in table(cohort / "truth.csv"):
        names = set(row) - bare - {"generator_version"}
        assert [name for name in names if not name.endswith(units)] == []
        number = {name: float(row[name]) for name in names}
        parts = ("hyper", "normal", "poor", "non")
        volume = sum(number[f"{part}_volume_ml"] for part in parts)
        assert volume == pytest.approx(number["lung_volume_ml"], abs=0.01)
        tissue = sum(number[f"{part}_tissue_g"] for part in parts)
        assert tissue == pytest.approx(number["lung_weight_g"], rel=0.005)
        assert number["lung_weight_g"] > 1.05 * number["healthy_lung_weight_g"]
        open_ee, open_ei = number["open_ee_fraction"], number["open_ei_fraction"]
        assert 0 < open_ee <= open_ei <= 1
        at_phase = open_ei if row["scan"].endswith("-ei") else open_ee
        assert number["open_fraction"] == pytest.approx(at_phase)


def test_files_are_stored_in_several_layouts_and_read_into_one(cohort):
    layouts = set()
    for row in table(cohort / "scans.csv"):
        image = nibabel.load(cohort / row["ct"])
        layouts.add("".join(nibabel.aff2axcodes(image.affine)))
        assert image.get_data_dtype() == np.int16
        ct, mask = read_ct(cohort / row["ct"]), read_mask(cohort / row["lung_mask"])
        np.testing.assert_allclose(ct.grid.affine_lps, mask.grid.affine_lps, atol=1e-4)
        assert set(np.unique(mask.values)) == {0, 1, 2}
        right, left = (np.argwhere(mask.values == label).mean(0) for label in (1, 2))
        assert right[2] < left[2]  # x runs from right to left
        assert np.median(ct.values[mask.values > 0]) < -150
        assert bone_is_dorsal(ct.values)
    assert layouts <= {*STORED_AXES} and len(layouts) >= 3


def bone_is_dorsal(hu: np.ndarray) -> bool:
    """More bone behind than in front along the midline: spine against sternum."""
    _, ny, nx = hu.shape
    bone = hu[:, :, nx // 2 - 3 : nx // 2 + 4] > 200
    return bone[:, ny // 2 :].sum() > 2 * bone[:, : ny // 2].sum()


def test_scans_of_a_session_share_one_grid_at_a_place_of_its_own(cohort):
    """A pig is not moved within a stage and position, so a pair covers the same box."""
    grids: dict[tuple, list] = {}
    for row in table(cohort / "scans.csv"):
        grid = read_ct(cohort / row["ct"]).grid
        session = (row["subject"], row["stage"], row["position"])
        grids.setdefault(session, []).append(grid)
    for first, *others in grids.values():
        for grid in others:
            assert grid.shape_zyx == first.shape_zyx
            np.testing.assert_allclose(grid.affine_lps, first.affine_lps, atol=1e-3)
    origins = [own[0].affine_lps[:3, 3] for own in grids.values()]
    assert len(np.unique(np.round(origins, 2), axis=0)) == len(grids)


@pytest.mark.parametrize("count", [6, 7, 12, 20, 24, 28, most_scans()])
def test_plans_hold_the_papers_protocols(count):
    for index in range(8):
        plan = plan_scans(3, index, count)
        assert len({scan.name for scan in plan}) == count
        assert holds_protocols(plan)


def holds_protocols(plan) -> bool:
    """Some block has PEEP 3, 8 and 13 at one tidal volume in both phases."""
    seen: dict[tuple, set] = {}
    for scan in plan:
        s = scan.setting
        block = seen.setdefault((s.stage, s.position, s.tidal_volume_ml_kg), set())
        block.add((s.peep_cmh2o, scan.phase))
    core = set(itertools.product((3, 8, 13), ("expiration", "inspiration")))
    return any(core <= settings for settings in seen.values())


def test_small_plans_take_every_stage_and_position_in_turn():
    blocks = {
        (s.setting.stage, s.setting.position) for index in range(4) for s in plan_scans(3, index, 6)
    }
    assert len(blocks) == 4


def test_twelve_scans_show_a_pig_in_both_stages_and_both_positions():
    for index in range(12):
        settings = [scan.setting for scan in plan_scans(3, index, 12)]
        assert len({s.stage for s in settings}) == len({s.position for s in settings}) == 2


def test_the_paper_preset_has_the_papers_numbers():
    """701 scans of 40 pigs, of which 2 validate, and 280 of 10 test pigs; 2 mm."""
    jobs = pig_jobs(PRESETS["paper"], Progress(Path("nowhere")))
    assert Counter(job.split for job in jobs) == {"train": 38, "val": 2, "test": 10}
    scans = {test: [j.scans for j in jobs if (j.split == "test") is test] for test in (False, True)}
    assert (sum(scans[False]), set(scans[False])) == (701, {17, 18})
    assert scans[True] == [28] * 10
    assert [len(job.planned) for job in jobs] == [job.scans for job in jobs]
    assert PRESETS["paper"].spacing_mm == 2.0


def test_a_flag_overrides_its_preset_and_nothing_else():
    changed = PRESETS["paper"].changed(pigs=20, scans_per_pig=6, dose=None)
    assert (changed.pigs, changed.scans_per_pig, changed.test_scans) == (20, 6, 6)
    assert (changed.spacing_mm, changed.val_share, changed.dose) == (2.0, 0.04, 1.0)


def test_counts_of_scans_have_the_mean_asked_for():
    split = ["train", "test", "val", "train", "test", "train"]
    assert scans_of_pigs(split, 7.5, 9) == [7, 9, 8, 7, 9, 8]


@pytest.mark.parametrize("spacing", [2.0, 5.0])
def test_no_scan_lies_on_the_nominal_grid_but_near_it(spacing):
    """Records are built at the nominal spacing: every scan has to be resampled."""
    seen = set()
    for job in pig_jobs(CohortSettings(pigs=30, spacing_mm=spacing), Progress(Path("nowhere"))):
        z, y, x = one_cohort._spacing_zyx_mm(job)
        assert y == x
        seen.add((z / spacing, x / spacing))
    assert len(seen) == 6
    for z, x in seen:
        assert 0.7 < z < 0.95 and 0.01 < abs(x - 1) < 0.07


def test_other_peep_levels_take_the_place_of_the_papers():
    for count in (4, 9, 30):
        plan = plan_scans(3, 1, count, (0, 20))
        assert len({scan.name for scan in plan}) == count
        first = Counter(s.setting.peep_cmh2o for s in plan)
        assert first[0] >= 2 and first[20] >= 2


def test_splits_are_about_70_10_20_and_never_empty():
    for pigs in (3, 4, 10, 16, 50):
        split = split_of_pigs(0, pigs)
        count = {name: split.count(name) for name in ("train", "val", "test")}
        assert sum(count.values()) == pigs and min(count.values()) >= 1
    assert (count["train"], count["val"], count["test"]) == (35, 5, 10)


def test_at_the_same_peep_the_larger_breath_is_the_more_inflated():
    same = {"subject": "pig001", "stage": "early", "position": "supine", "phase": "inspiration"}
    rows = [same | {"peep_cmh2o": 8, "tidal_volume_ml_kg": v} for v in (6, 12, 8)]
    assert shown_scans(rows) == [(rows[0], rows[1])]


def test_the_contact_sheet_shows_the_least_and_most_inflated_scan_of_each_pig(cohort):
    rows = table(cohort / "scans.csv")
    for row in rows:
        row["peep_cmh2o"] = int(row["peep_cmh2o"])
    pairs = shown_scans(rows)
    assert len(pairs) == 3
    for first, last in pairs:
        assert (first["peep_cmh2o"], first["phase"]) == (3, "expiration")
        assert (last["peep_cmh2o"], last["phase"]) == (13, "inspiration")
        assert first["subject"] == last["subject"]
    image = pyplot.imread(cohort / "contact_sheet.png")[..., 0]
    assert image.shape == (3 * TILE, 8 * TILE)
    tiles = image.reshape(3, TILE, 8, TILE).transpose(0, 2, 1, 3)
    assert tiles.std((2, 3)).min() > 0.08  # none is blank
    assert (tiles[:, 4:] != tiles[:, :4]).mean() > 0.1


def noiseless(folder: Path, **changes) -> dict[str, np.ndarray]:
    """HU of the two scans of a pig made without noise."""
    settings = SMALL.changed(scans_per_pig=2, peep_cmh2o=(5,), noise=False, **changes)
    progress = Progress(folder)
    progress.begin()
    make_pig(PigJob(settings, 0, "train", 2, progress))
    notes = [p for p in sorted((folder / "notes").iterdir())]
    truths = [json.loads(p.read_text())["truth"] for p in notes]
    assert {(t["water_reads_hu"], t["air_reads_off_hu"]) for t in truths} == {("0", "0")}
    return {p.name: read_ct(p).values for p in sorted(progress.cohort.glob("*/*-e[ei].nii.gz"))}


def test_noise_off_leaves_air_exact_and_no_dose_to_see(cohort, tmp_path):
    noisy = read_ct(cohort / table(cohort / "scans.csv")[0]["ct"]).values
    assert (noisy == -1000).mean() < 0.1
    scans = noiseless(tmp_path / "one")
    assert all("peep05" in name for name in scans) and len(scans) == 2
    for hu in scans.values():
        assert (hu == -1000).mean() > 0.25
    other = noiseless(tmp_path / "two", dose=0.1)
    for name, hu in scans.items():
        np.testing.assert_array_equal(hu, other[name])
