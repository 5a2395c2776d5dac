"""The evaluation command on tiny chests whose answers are known."""

import csv
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from array_record.python.array_record_module import ArrayRecordWriter

from edm3d import evaluate
from edm3d.data.cases import (
    SCHEMA_VERSION,
    Case,
    DatasetInfo,
    ScalarRanges,
    Ventilation,
    encode_case,
)
from edm3d.data.volumes import write_nifti
from edm3d.errors import InputError

SPACING = 8.0
SHAPE = (26, 28, 36)
HU_STEP = 40  # by this much a shifted sample's lung is denser


def chest(growth: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A trunk with two ellipsoid lungs of `growth` times the least volume; and their mask."""
    z, y, x = (SPACING * (g - n / 2 + 0.5) for g, n in zip(np.indices(SHAPE), SHAPE, strict=True))
    r = growth ** (1 / 3)
    volume = np.full(SHAPE, -1000.0)
    volume[(y / 95) ** 2 + (x / 130) ** 2 < 1] = 40
    mask = np.zeros(SHAPE, np.uint8)
    for label, side in ((1, -1), (2, 1)):
        centred = (x - side * 56) / 42
        mask[(z / 70) ** 2 + (y / 52) ** 2 + centred**2 < r**2] = label
    rng = np.random.default_rng(seed)
    depth = (y + 60) / 120
    volume[mask > 0] = (-850 + 500 * depth)[mask > 0]
    return np.round(volume + rng.normal(0, 8, SHAPE)).astype(np.int16), mask


SETTINGS = [("inspiration", 3.0), ("expiration", 3.0), ("expiration", 8.0), ("expiration", 13.0)]
GROWTH = dict(zip(SETTINGS, (1.3, 1.0, 1.1, 1.22), strict=True))
PAIRS = [(0, 1), (1, 0), (1, 2), (1, 3)]


def make_case(pig: int, prior: int, target: int, *, subject: str | None = None) -> Case:
    subject = subject or f"pig{pig}"
    scans = [chest(GROWTH[SETTINGS[s]] * (1 + 0.1 * pig), 10 * pig + s) for s in (prior, target)]
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -100.0, 20.0, 300.0
    flat = np.zeros((SHAPE[0], 4), np.float32)
    ventilation = [Ventilation(SETTINGS[s][1], 8.0, SETTINGS[s][0]) for s in (prior, target)]
    return Case(
        case_id=f"pig{pig}__s{prior}__s{target}",
        subject=subject,
        prior_scan=f"s{prior}",
        target_scan=f"s{target}",
        stage="early",
        position="supine",
        prior_ventilation=ventilation[0],
        target_ventilation=ventilation[1],
        prior_hu=scans[0][0],
        target_hu=scans[1][0],
        xray_pa=flat,
        xray_lat=flat,
        prior_xray_pa=flat,
        prior_xray_lat=flat,
        affine_lps=affine,
        volume_shape_zyx=SHAPE,
        prior_lung_mask=scans[0][1],
        target_lung_mask=scans[1][1],
    )


def write_records(folder: Path, cases: list[Case]) -> None:
    folder.mkdir(parents=True)
    path = folder / "test-00000-of-00001.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for case in cases:
        writer.write(encode_case(case))
    writer.close()
    info = DatasetInfo(
        schema_version=SCHEMA_VERSION,
        edm3d_version="0",
        spacing_mm=SPACING,
        window_hu=(-1024.0, 1024.0),
        residual_std=0.1,
        scalar_ranges=ScalarRanges((3.0, 15.0), (6.0, 12.0)),
        geometry={"kind": "parallel", "mu_water_per_mm": 0.0206},
        antialias=False,
        block=160,
        seed=0,
        split_by="subject",
        subjects={"test": sorted({c.subject for c in cases})},
        counts={"test": {"cases": len(cases), "records": len(cases)}},
        least_coverage={"train": 1.0, "val": 1.0, "test": 1.0},
        largest_volume_zyx={"train": [20, 20, 20]},
        files={path.name: {"sha256": "", "bytes": path.stat().st_size}},
    )
    (folder / "dataset.json").write_text(info.to_json())


def write_sample(folder: Path, case: Case, members: list[np.ndarray], /, **record: Any) -> None:
    """A sample folder as edm3d.sample leaves it."""
    case_folder = folder / case.case_id
    (case_folder / "members").mkdir(parents=True)
    mean = np.round(np.mean(members, axis=0)).astype(np.int16)
    write_nifti(case_folder / "generated.nii.gz", mean, case.grid)
    for i, hu in enumerate(members if len(members) > 1 else []):
        write_nifti(case_folder / "members" / f"{i:03}.nii.gz", hu.astype(np.int16), case.grid)
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(getattr(case, name)).tobytes()).hexdigest()
        for name in ("prior_hu", "xray_pa", "xray_lat")
    }
    facts = {"members": len(members), "nfe": 35, "checkpoint_step": 7, "seed": 0}
    content = {**facts, "input_sha256": digests, **record}
    (case_folder / "case.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [make_case(pig, prior, target) for pig in range(3) for prior, target in PAIRS]


@pytest.fixture(scope="module")
def records(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "records"
    write_records(folder, cases)
    return folder


def evaluated(samples: Path, records: Path, out: Path, **more: Any) -> dict[str, Any]:
    """metrics.json of a run that must succeed; groups by key, and their methods by name."""
    with flagsaver.flagsaver(samples=str(samples), records=str(records), out=str(out), **more):
        evaluate.main([])
    metrics = json.loads((out / "metrics.json").read_text())
    groups = {g["key"]: g | {m["method"]: m for m in g["methods"]} for g in metrics["groups"]}
    return metrics | {"groups": groups}


def refused(samples: Path | None, records: Path, out: Path, **more: Any) -> str:
    """The last line of the error of a run that must leave nothing behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(InputError) as error:
        evaluated(samples or Path(), records, out, **more)
    assert sorted(out.parent.iterdir()) == before
    return str(error.value).splitlines()[-1]


@pytest.fixture(autouse=True, scope="module")
def parsed_flags() -> None:
    import grain.sources  # noqa: F401 - defines flags, which flagsaver would forget

    flags.FLAGS.mark_as_parsed()


def test_a_perfect_model_has_no_bias_and_the_copy_has_its_own(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases:
        write_sample(tmp_path / "samples", case, [case.target_hu])
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report", masks="classical")
    everything = metrics["groups"]["all"]
    assert (everything["cases"], everything["subjects"]) == (12, 3)
    model, copy = everything["model"], everything["copy the prior"]
    for quantity in ("lung_volume_ml", "normally_aerated_percent", "gas_volume_ml"):
        assert model["agreement"][quantity]["mean_absolute_error"] == 0
        assert model["agreement"][quantity]["change"] is None  # both directions are in it
    assert model["lung_mae_hu"] == 0 and copy["lung_mae_hu"] > 50
    volume = copy["agreement"]["lung_volume_ml"]
    assert volume["regression"]["r_squared"] is not None
    phases = [f"opposite_phase_{phase}" for phase in ("inspiration", "expiration")]
    to_in, to_ex = (metrics["groups"][p]["copy the prior"]["agreement"] for p in phases)
    for phase in phases:
        perfect = metrics["groups"][phase]["model"]["agreement"]["lung_volume_ml"]
        assert perfect["change"]["slope"] == perfect["change_r2"] == pytest.approx(1)
    assert to_in["lung_volume_ml"]["change"]["slope"] == 0 > to_in["lung_volume_ml"]["change_r2"]
    assert to_in["lung_volume_ml"]["bland_altman"]["bias"] < -200
    assert to_ex["lung_volume_ml"]["bland_altman"]["bias"] > 200
    assert set(metrics["groups"]) == {
        *phases, "peep_3_to_8", "peep_3_to_13", "peep_3_to_8_or_13", "all"
    }  # fmt: skip
    page = (tmp_path / "report" / "report.html").read_text()
    assert "nearer to the original CT than copying the prior" in page
    assert "3 [−67, 73] ml" in page and "not a medical device" in page
    assert "virtual cohort" not in page.lower()
    names = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    assert {"figure_2.png", "figure_3a.png", "figure_3b.png", "three_planes.png"} <= names
    rows = list(csv.DictReader((tmp_path / "report" / "cases.csv").read_text().splitlines()))
    assert [r["case_id"] for r in rows] == [c.case_id for c in cases]


def test_a_copying_model_equals_the_copy_row_and_is_told_so(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases:
        write_sample(tmp_path / "samples", case, [case.prior_hu])
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report", virtual_cohort=True)
    for group in metrics["groups"].values():
        assert group["model"] | {"method": ""} == group["copy the prior"] | {"method": ""}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The model is not better than copying the prior" in page
    assert "never evidence about real pigs" in page


def test_a_known_shift_in_the_given_masks_is_the_known_bias(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    lung_ml = []
    for case in cases:
        assert case.target_lung_mask is not None and case.target_hu is not None
        shift = (HU_STEP * (case.target_lung_mask > 0)).astype(np.int16)
        write_sample(tmp_path / "samples", case, [case.target_hu + shift])
        lung_ml.append(np.count_nonzero(shift) * SPACING**3 / 1000)
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report", masks="given")
    model = metrics["groups"]["all"]["model"]
    assert "lung_volume_ml" not in model["agreement"]
    gas = model["agreement"]["gas_volume_ml"]["bland_altman"]
    assert gas["bias"] == pytest.approx(-HU_STEP / 1000 * np.mean(lung_ml), rel=1e-9)
    assert model["lung_mae_hu"] == pytest.approx(HU_STEP)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Lung volume is left out" in page and "Lung volume: original" not in page
    assert "lung masks stored with the records" in page and "exact" not in page
    (row, *_) = csv.DictReader((tmp_path / "report" / "cases.csv").read_text().splitlines())
    assert "generated.gas_volume_ml" in row
    assert not [name for name in row if name.endswith("lung_volume_ml")]
    evaluated(
        tmp_path / "samples", records, tmp_path / "virtual", masks="given", virtual_cohort=True
    )
    assert "masks are exact" in (tmp_path / "virtual" / "report.html").read_text()


def gas_ml(hu: np.ndarray | None, mask: np.ndarray | None) -> float:
    assert hu is not None and mask is not None
    return -hu[mask > 0].astype(float).sum() / 1000 * SPACING**3 / 1000


def test_given_masks_measure_the_prior_in_its_own_lung(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases:
        write_sample(tmp_path / "samples", case, [case.target_hu])
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report", masks="given")
    rows = list(csv.DictReader((tmp_path / "report" / "cases.csv").read_text().splitlines()))
    changes = []
    for case, row in zip(cases, rows, strict=True):
        found = [float(row[f"{ct}.gas_volume_ml"]) for ct in ("original", "prior")]
        true = (
            gas_ml(case.target_hu, case.target_lung_mask),
            gas_ml(case.prior_hu, case.prior_lung_mask),
        )
        assert found == pytest.approx(true)
        if (case.prior_scan, case.target_scan) == ("s0", "s1"):
            changes.append(true[0] - true[1])
    assert np.mean(changes) < -100  # ml: a breath
    copy = metrics["groups"]["opposite_phase_expiration"]["copy the prior"]["agreement"]
    bias = copy["gas_volume_ml"]["bland_altman"]["bias"]
    assert bias == pytest.approx(-np.mean(changes))


def test_given_masks_that_a_record_lacks_are_one_clear_line(tmp_path: Path) -> None:
    for name in ("prior", "target"):
        case = dataclasses.replace(make_case(0, 1, 0), **{f"{name}_lung_mask": None})
        write_records(tmp_path / name / "records", [case])
        write_sample(tmp_path / name / "samples", case, [case.target_hu])
        line = refused(
            tmp_path / name / "samples", tmp_path / name / "records", tmp_path / "report",
            masks="given",
        )  # fmt: skip
        assert f"has no lung mask of its {name}" in line


def test_captions_name_the_papers_figures_only_where_their_cases_exist(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases[:2]:  # opposite phases only
        write_sample(tmp_path / "samples", case, [case.target_hu])
    evaluated(tmp_path / "samples", records, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Figure 3B" not in page and "mean image of the ensemble" not in page
    assert "The case of median error in the lung among all cases." in page
    for case in cases[2:4]:
        write_sample(tmp_path / "samples", case, [case.target_hu] * 2)
    evaluated(tmp_path / "samples", records, tmp_path / "report", overwrite=True)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Figure 3B" in page and "mean image of the ensemble" in page
    assert "among the cases of PEEP 3 to 8 or 13 cmH2O." in page


def test_a_report_may_take_the_place_of_the_empty_folder_one_is_in(
    cases: list[Case], records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(tmp_path / "samples", cases[0], [cases[0].target_hu])
    (tmp_path / "report").mkdir()
    monkeypatch.chdir(tmp_path / "report")
    with flagsaver.flagsaver(samples=str(tmp_path / "samples"), records=str(records), out="."):
        evaluate.main([])
    assert (tmp_path / "report" / "report.html").is_file()
    monkeypatch.chdir(tmp_path)  # the old folder is gone


def test_ensembles_are_measured_by_member_and_voxels_by_their_mean(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases:
        assert case.target_lung_mask is not None and case.target_hu is not None
        swing = (100 * (case.target_lung_mask > 0)).astype(np.int16)
        write_sample(tmp_path / "samples", case, [case.target_hu - swing, case.target_hu + swing])
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report", masks="given")
    model = metrics["groups"]["all"]["model"]
    assert model["lung_mae_hu"] == 0
    assert model["agreement"]["gas_volume_ml"]["mean_absolute_error"] == pytest.approx(0, abs=1e-9)
    assert model["agreement"]["normally_aerated_percent"]["mean_absolute_error"] > 5
    assert metrics["provenance"]["members"] == [2]


def test_members_that_an_interrupted_larger_run_left_are_not_measured(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    case = cases[0]
    assert case.target_hu is not None
    for members in (1, 2):
        samples = tmp_path / f"samples{members}"
        write_sample(samples, case, [case.target_hu] * members)
        left = samples / case.case_id / "members" / f"{members:03}.nii.gz"
        write_nifti(left, case.prior_hu, case.grid)
        metrics = evaluated(samples, records, tmp_path / f"report{members}")
        volume = metrics["groups"]["all"]["model"]["agreement"]["lung_volume_ml"]
        assert volume["mean_absolute_error"] == 0
    (samples / case.case_id / "members" / "001.nii.gz").unlink()
    assert "001.nii.gz does not exist" in refused(samples, records, tmp_path / "report3")


def test_few_constant_and_missing_cases_are_stated(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases[:2]:
        write_sample(tmp_path / "samples", case, [case.target_hu])
    (tmp_path / "samples" / cases[2].case_id).mkdir()
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report")
    assert metrics["remarks"][0] == "2 of 12 test cases sampled."
    volume = metrics["groups"]["all"]["model"]["agreement"]["lung_volume_ml"]
    assert volume["bland_altman"] is None and "too few" in volume["notes"][0]
    assert "Too few cases (2)" in (tmp_path / "report" / "report.html").read_text()


def test_cases_without_a_target_ct_are_skipped_and_told(cases: list[Case], tmp_path: Path) -> None:
    blind = [dataclasses.replace(c, target_hu=None, target_lung_mask=None) for c in cases[:3]]
    write_records(tmp_path / "records", [*blind, *cases[3:6]])
    for case in [*blind, *cases[3:5]]:
        write_sample(tmp_path / "samples", case, [case.prior_hu])
    metrics = evaluated(tmp_path / "samples", tmp_path / "records", tmp_path / "report")
    assert metrics["remarks"][:2] == [
        "2 of 3 test cases sampled.",
        "3 more have films but no target CT: skipped, there is no truth to compare with.",
    ]
    assert not any("belong to no test case" in remark for remark in metrics["remarks"])
    write_records(tmp_path / "blind", blind)
    told = refused(tmp_path / "samples", tmp_path / "blind", tmp_path / "other")
    assert "none of the 3 test cases has a target CT to compare with" in told


def test_a_generated_ct_without_lung_is_left_out_and_named(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    for case in cases[:3]:
        write_sample(tmp_path / "samples", case, [case.target_hu])
    assert cases[3].target_hu is not None
    solid = np.where(np.abs(cases[3].target_hu) < 990, 40, cases[3].target_hu)
    write_sample(tmp_path / "samples", cases[3], [solid])
    metrics = evaluated(tmp_path / "samples", records, tmp_path / "report")
    assert metrics["groups"]["all"]["cases"] == 3
    assert f"no lung in the generated CT of {cases[3].case_id}" in metrics["remarks"][1]


def test_a_subject_named_like_a_script_stays_text(tmp_path: Path) -> None:
    case = make_case(0, 1, 0, subject="<script>alert(1)</script>")
    write_records(tmp_path / "records", [case])
    write_sample(tmp_path / "samples", case, [case.target_hu])
    evaluated(tmp_path / "samples", tmp_path / "records", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert 'src="http' not in page and "<link" not in page


def test_bad_input_is_one_clear_line(cases: list[Case], records: Path, tmp_path: Path) -> None:
    samples, out, case = tmp_path / "samples", tmp_path / "report", cases[0]
    assert "is no folder" in refused(samples, records, out)
    samples.mkdir()
    assert "no complete sample of the 12 test cases" in refused(samples, records, out)

    def sampled(**record: Any) -> None:
        shutil.rmtree(samples / case.case_id, ignore_errors=True)
        write_sample(samples, case, [case.target_hu], **record)

    sampled()
    right = json.loads((samples / case.case_id / "case.json").read_text())["input_sha256"]
    names = {"prior_hu": "prior", "xray_pa": "PA X-ray", "xray_lat": "lateral X-ray"}
    for name, words in names.items():
        sampled(input_sha256={**right, name: "other"})
        assert f"drawn from another {words}" in refused(samples, records, out)
    sampled(input_sha256={"prior_hu": right["prior_hu"]})
    assert "case.json is damaged" in refused(samples, records, out)
    sampled(members=0)
    assert "members of" in refused(samples, records, out)
    with flagsaver.flagsaver(samples=None), pytest.raises(InputError, match="--samples is missing"):
        evaluate.main([])
    assert "dataset.json does not exist" in refused(samples, tmp_path, out)


def test_an_unusable_generated_ct_is_one_clear_line(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    case = cases[0]
    assert case.target_hu is not None
    write_sample(tmp_path / "samples", case, [case.target_hu])
    path = tmp_path / "samples" / case.case_id / "generated.nii.gz"
    holed = case.target_hu.astype(np.float32)
    holed[3, 4, 5] = np.nan
    write_nifti(path, holed, case.grid)
    assert "NaN" in refused(tmp_path / "samples", records, tmp_path / "report")
    moved = dataclasses.replace(case.grid, affine_lps=case.grid.affine_lps + np.eye(4)[3] * 5)
    write_nifti(path, case.target_hu, moved)
    assert "not that of its record" in refused(tmp_path / "samples", records, tmp_path / "report")


def test_a_report_is_replaced_only_when_asked(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    write_sample(tmp_path / "samples", cases[0], [cases[0].target_hu])
    arguments = tmp_path / "samples", records, tmp_path / "report"
    first = evaluated(*arguments)
    assert "--overwrite" in refused(*arguments)
    write_sample(tmp_path / "samples", cases[1], [cases[1].target_hu])
    second = evaluated(*arguments, overwrite=True)
    assert first["groups"]["all"]["cases"] == 1 and second["groups"]["all"]["cases"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report", "samples"]
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").touch()
    assert "other things" in refused(arguments[0], records, other, overwrite=True)
    assert (other / "thesis.txt").exists()


def test_a_report_that_cannot_be_written_is_one_clear_line(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    write_sample(tmp_path / "samples", cases[0], [cases[0].target_hu])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        evaluated(tmp_path / "samples", records, tmp_path / "file" / "report")


def test_the_command_ends_with_the_report_or_with_exit_code_2(
    cases: list[Case], records: Path, tmp_path: Path
) -> None:
    write_sample(tmp_path / "samples", cases[0], [cases[0].target_hu])
    command = [sys.executable, "-W", "error", "-m", "edm3d.evaluate", f"--records={records}"]
    command += [f"--samples={tmp_path / 'samples'}", f"--out={tmp_path / 'report'}"]
    first, again = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "change to expiration, slope; R²" in first.stdout
    assert first.stdout.rstrip().splitlines()[-1] == str(tmp_path / "report" / "report.html")
    assert again.returncode == 2
    assert [li.startswith("error: --out") for li in again.stderr.splitlines()] == [True]
