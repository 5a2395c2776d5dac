"""The cohort on disk: reproducible, complete for the paper's protocols, never half made."""

import csv
import itertools
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data_prep import make_virtual_cohort
from data_prep.virtual_pig.cohort import STORED_AXES
from data_prep.virtual_pig.design import MOST_SCANS, plan_scans, split_of_pigs
from edm3d.data.manifest import read_manifest
from edm3d.data.volumes import read_ct, read_mask
from edm3d.errors import InputError

SMALL = {"pigs": 3, "spacing_mm": 8.0, "seed": 11, "scans_per_pig": 6}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one") / "cohort"
    assert make_virtual_cohort.make_cohort(out, **SMALL, workers=1) == 18
    return out


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_same_seed_gives_the_same_bytes_on_any_number_of_workers(cohort, tmp_path):
    again = tmp_path / "again"
    make_virtual_cohort.make_cohort(again, **SMALL, workers=2)
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


@pytest.mark.parametrize("count", [6, 7, 12, 20, 24, 28, MOST_SCANS])
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


def test_splits_are_about_70_10_20_and_never_empty():
    for pigs in (3, 4, 10, 16, 50):
        split = split_of_pigs(0, pigs)
        count = {name: split.count(name) for name in ("train", "val", "test")}
        assert sum(count.values()) == pigs and min(count.values()) >= 1
    assert (count["train"], count["val"], count["test"]) == (35, 5, 10)


@pytest.mark.parametrize(
    "bad",
    [
        {"pigs": 2},
        {"spacing_mm": -1.0},
        {"spacing_mm": 0.0},
        {"spacing_mm": float("nan")},
        {"seed": -1},
        {"scans_per_pig": 5},
        {"workers": 0},
    ],
)
def test_unusable_numbers_are_refused_before_anything_is_written(bad, tmp_path):
    with pytest.raises(InputError, match="use"):
        make_virtual_cohort.make_cohort(tmp_path / "out", **({"workers": 1} | SMALL | bad))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        make_virtual_cohort.make_cohort(tmp_path, **SMALL, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(jobs, workers):
        (jobs[0].folder / "half").write_text("made")
        raise RuntimeError("a fault")

    monkeypatch.setattr(make_virtual_cohort, "_run", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        make_virtual_cohort.make_cohort(tmp_path / "out", **SMALL, workers=1)
    assert not list(tmp_path.iterdir())


def test_the_command_answers_bad_flags_with_one_line_and_exit_2(tmp_path):
    script = Path(make_virtual_cohort.__file__)
    run = subprocess.run(
        [sys.executable, script, f"--out={tmp_path / 'out'}", "--pigs=2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 2
    assert (
        run.stderr.strip()
        == "error: --pigs is 2; use at least 3 (train, val and test need one each)"
    )
    assert not (tmp_path / "out").exists()
