"""From DICOM that names its patient in every field to the report: nothing of it comes out."""

import json
from pathlib import Path

from absl import flags
from absl.testing import flagsaver

from data_prep.check_dataset import all_findings, as_json, see_all, splits_and_ranges
from data_prep.dataset_check import page
from edm3d import evaluate
from edm3d.data.cases import read_cases
from edm3d.data.manifest import read_manifest, read_rows
from edm3d.data.records import write_records
from edm3d.data.volumes import read_grid, write_nifti
from edm3d.sample import Request, sample
from edm3d.train import train
from tests.configurations import tiny_config
from tests.data.identified import MARKERS, assert_no_secret, contents, write_with_markers
from tests.data.phantoms import lung_mask, settings, write_manifest

SHAPE = (40, 40, 48)  # of 3 x 2 x 1.5 mm: 15 x 10 x 9 voxels of 8 mm
SPLITS = {"pig1": "train", "pig2": "train", "pig3": "val", "pig4": "test"}


def write_dicom_cohort(folder: Path) -> Path:
    """A manifest of two marked DICOM series a subject, each with its mask."""
    rows = []
    for number, (subject, split) in enumerate(SPLITS.items()):
        for index, peep in enumerate((3, 8)):
            name = f"{subject}_{index}"
            uid = {"0020|000e": f"{MARKERS['0020|000e']}.{number}.{index}"}
            write_with_markers(folder / name, 2 * number + index, SHAPE, **uid)
            write_nifti(folder / f"{name}.nii.gz", lung_mask(SHAPE), read_grid(folder / name))
            row = dict(subject=subject, scan=f"s{index}", stage="early", position="prone")
            row |= dict(phase="expiration", peep_cmh2o=peep, tidal_volume_ml_kg=8, split=split)
            rows.append(row | dict(ct=name, lung_mask=f"{name}.nii.gz"))
    return write_manifest(folder, rows)


def evaluated(samples: Path, records: Path, out: Path) -> None:
    import grain.sources  # noqa: F401 - defines flags, which flagsaver would forget

    flags.FLAGS.mark_as_parsed()
    places = dict(samples=str(samples), records=str(records), out=str(out))
    with flagsaver.flagsaver(**places, masks="given"):
        evaluate.main([])


def test_nothing_of_a_person_is_in_what_the_check_of_a_dataset_shows(tmp_path):
    rows = read_rows(write_dicom_cohort(tmp_path))
    seen = see_all(rows, 1)
    assert all(one.measured for one in seen)
    findings = all_findings(rows, seen, None, splits_and_ranges(rows, None, False)[0])
    assert_no_secret(page.render(seen, findings, []).encode())
    assert_no_secret(as_json(seen, findings, []).encode())


def test_nothing_of_a_person_is_in_a_run_its_samples_report_and_logs(tmp_path, widths, capfd):
    manifest = write_dicom_cohort(tmp_path / "dicom")
    made = tmp_path / "made"
    records, run, drawn, report = (made / name for name in ("records", "run", "drawn", "report"))
    write_records(read_manifest(manifest), records, settings(spacing_mm=8.0), seed=0)
    train(tiny_config(widths, records, run))
    sample(Request(run=run, out=drawn / "records", records=records, members=2))
    sample(Request(run=run, out=drawn / "manifest", manifest=manifest, limit=2))
    evaluated(drawn / "records", records, report)
    logs = capfd.readouterr()
    assert "report.html" in logs.out
    assert_no_secret((logs.out + logs.err).encode())
    files = {path.name for path in made.rglob("*")}
    assert {"case.json", "generated.nii.gz", "report.html", "metrics.json", "cases.csv"} <= files
    assert {"metrics.jsonl", "dataset.json", "members"} <= files
    # Records are packed, so their fields are looked at as well as their bytes.
    cases = [
        repr(case) for split in ("train", "val", "test") for case in read_cases(records, split)
    ]
    assert_no_secret(contents(made) + "".join(cases).encode())
    assert len(json.loads((report / "metrics.json").read_text())["groups"]) > 0
