"""The import of a DICOM tree, and that nothing of a person comes out of it or of the reader."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.import_dicom import import_tree
from edm3d.data.cases import read_cases
from edm3d.data.dicom_header import read_header
from edm3d.data.manifest import REQUIRED, read_manifest
from edm3d.data.records import write_records
from edm3d.data.volumes import read_ct
from edm3d.errors import InputError
from tests.configurations import ROOT
from tests.data.dicom_phantoms import SERIES_UID, SHAPE, write_series
from tests.data.identified import MARKERS, assert_no_secret, contents, write_with_markers
from tests.data.phantoms import chest, settings, write_manifest


def run(*arguments: object) -> subprocess.CompletedProcess:
    script = ROOT / "data_prep" / "import_dicom.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_marked_series_holds_its_markers(tmp_path):
    write_with_markers(tmp_path / "s")
    data = contents(tmp_path / "s")
    for value in MARKERS.values():
        assert value.encode() in data, value


def test_nothing_of_a_person_is_in_what_the_reader_keeps(tmp_path):
    hu = write_with_markers(tmp_path / "s")
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    assert_no_secret(repr(volume).encode())
    kept = repr(read_header(tmp_path / "s" / "0.dcm")).encode()
    assert_no_secret(kept, digests=False)  # by which equal is told from different


@pytest.mark.parametrize(
    "more",
    [
        {"0008|0060": "MARK"},
        {"0008|0008": "ORIGINAL\\MARKNAME\\LOCALIZER"},
        {"0020|0011": "MARKNAME"},
        {"0028|1054": "MARKUNIT"},
        {"0018|5100": "MARKNAME"},
    ],
)
def test_nothing_of_a_person_is_in_an_error_even_from_misplaced_fields(tmp_path, more):
    write_with_markers(tmp_path / "s", **more)
    done = run("--root", tmp_path / "s", "--out", tmp_path / "out")
    assert_no_secret((done.stdout + done.stderr).encode())
    # A posture that is none is no reason to refuse: the cell stays empty.
    if done.returncode == 0:
        assert_no_secret(contents(tmp_path / "out"))
    else:
        assert done.returncode == 2 and "error: " in done.stderr


def test_nothing_of_a_person_is_in_outputs_logs_or_the_error_of_two_series(tmp_path):
    hu = write_with_markers(tmp_path / "tree" / "a")
    second = {"0020|000e": "1.2.826.0.1.771177.4", "0020|0011": "9"}
    write_with_markers(tmp_path / "tree" / "b", **second)
    (tmp_path / "tree" / "b" / "5.dcm").unlink()
    done = run("--root", tmp_path / "tree", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert_no_secret((done.stdout + done.stderr).encode())
    assert_no_secret(contents(tmp_path / "out"))
    np.testing.assert_array_equal(read_ct(tmp_path / "out" / "pig001_s01.nii.gz").values, hu)
    for path in (tmp_path / "tree" / "b").iterdir():
        path.rename(tmp_path / "tree" / "a" / f"b{path.name}")
    with pytest.raises(InputError, match="holds 2 series") as caught:
        read_ct(tmp_path / "tree" / "a")
    assert_no_secret(str(caught.value).encode())


def test_nothing_of_a_person_is_in_what_an_unfinished_import_keeps(tmp_path, monkeypatch):
    write_with_markers(tmp_path / "tree" / "a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_prep.import_dicom.hand_over", full)
    with pytest.raises(OSError):
        import_tree(tmp_path / "tree", tmp_path / "out")
    kept = [path for path in (tmp_path / ".out.part").rglob("*") if path.is_file()]
    assert {path.name for path in kept} == {"lock", "note.json", "volume.nii.gz"}
    names = "".join(str(path.relative_to(tmp_path)) for path in kept)
    assert_no_secret(contents(tmp_path / ".out.part") + names.encode())


def test_nothing_of_a_person_is_in_records_made_from_dicom(tmp_path):
    write_with_markers(tmp_path / "a")
    write_with_markers(tmp_path / "b", 1, **{"0020|000e": "1.2.826.0.1.771177.4"})
    row = dict(subject="pig1", stage="early", position="prone", phase="expiration", split="train")
    row |= dict(peep_cmh2o=5, tidal_volume_ml_kg=8)
    rows = [row | dict(scan=name, ct=name) for name in ("a", "b")]
    scans = read_manifest(write_manifest(tmp_path, rows))
    write_records(scans, tmp_path / "records", settings(), seed=0)
    cases = list(read_cases(tmp_path / "records", "train"))
    assert len(cases) == 2
    # Records are packed, so their fields are looked at as well as their bytes.
    assert_no_secret(contents(tmp_path / "records") + repr(cases).encode())


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def make_tree(root: Path) -> dict[str, np.ndarray]:
    """Two subjects of three good series, and three bad ones; returns the HU by folder."""
    good = {}
    plan = [("one/a", "x", 2, "HFS"), ("one/b", "x", 10, "HFP"), ("two/deep/c", "y", 1, "FFDR")]
    for index, (name, patient, number, posture) in enumerate(plan):
        fields = {0x00100020: ("LO", patient), 0x00200011: ("IS", number)}
        fields |= {0x0020000E: ("UI", f"{SERIES_UID}.{index}"), 0x00185100: ("CS", posture)}
        hu = chest(SHAPE, seed=index)
        good[name] = write_series(root / name, hu, lambda _, f, more=fields: f | more)
    bad = {0x0020000E: ("UI", f"{SERIES_UID}.8")}
    write_series(root / "two/gap", None, lambda z, f: None if z == 5 else f | bad)
    bad = {0x0020000E: ("UI", f"{SERIES_UID}.9"), 0x00080060: ("CS", "MR")}
    write_series(root / "two/mr", None, lambda _, f: f | bad)
    bad = {0x0020000E: ("UI", f"{SERIES_UID}.7")}
    write_series(root / "=HYPERLINK(1)", None, lambda _, f: f | bad)
    (root / "=HYPERLINK(1)" / "011.dcm").write_bytes(b"")
    (root / "notes.txt").write_text("not DICOM")
    return good


def test_a_tree_becomes_scans_of_neutral_subjects_and_a_list_of_refusals(tmp_path):
    good = make_tree(tmp_path / "tree")
    done = run("--root", tmp_path / "tree", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "3 scans of 2 subjects, 4 refused" in done.stdout
    scans, sources = rows_of(tmp_path / "out/scans.csv"), rows_of(tmp_path / "out/sources.csv")
    assert tuple(scans[0]) == REQUIRED
    for scan, source in zip(scans, sources, strict=True):
        hu = good[source["folder"].removeprefix("./")]
        np.testing.assert_array_equal(read_ct(tmp_path / "out" / scan["ct"]).values, hu)
        assert scan["ct"] == f"{scan['subject']}_{scan['scan']}.nii.gz"
        assert source["slices"] == "12" and source["spacing_zyx_mm"] == "3 2 1.5"
        assert scan["stage"] == scan["phase"] == scan["peep_cmh2o"] == ""
    found = {source["folder"]: scan for scan, source in zip(scans, sources, strict=True)}
    one, other, lone = (found[f"./{name}"] for name in good)
    assert [s["position"] for s in (one, other, lone)] == ["supine", "prone", "right decubitus"]
    assert [s["scan"] for s in (one, other, lone)] == ["s01", "s02", "s01"]
    assert one["subject"] == other["subject"] != lone["subject"]
    assert {s["subject"] for s in scans} == {"pig001", "pig002"}


def test_refusals_say_why_and_no_cell_is_a_formula(tmp_path):
    make_tree(tmp_path / "tree")
    run("--root", tmp_path / "tree", "--out", tmp_path / "out")
    refused = {row["folder"]: row["reason"] for row in rows_of(tmp_path / "out/refused.csv")}
    assert "misses about 1 slice" in refused["./two/gap"]
    assert "modality MR" in refused["./two/mr"]
    assert "no DICM mark" in refused["./=HYPERLINK(1)/011.dcm"]
    assert "beside its slices" in refused["./=HYPERLINK(1)"]  # one of them may be the broken file
    for name in ("scans", "sources", "refused"):
        for row in rows_of(tmp_path / "out" / f"{name}.csv"):
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())


def test_the_filled_template_is_a_manifest(tmp_path):
    make_tree(tmp_path / "tree")
    import_tree(tmp_path / "tree", tmp_path / "out")
    filled = dict(stage="early", phase="expiration", peep_cmh2o="5", tidal_volume_ml_kg="8")
    rows = [{**row, **filled} for row in rows_of(tmp_path / "out/scans.csv")]
    with open(tmp_path / "out/filled.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, REQUIRED)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=r"row 4, column position is 'right decubitus'"):
        read_manifest(tmp_path / "out/filled.csv")
    text = (tmp_path / "out/filled.csv").read_text()
    (tmp_path / "out/filled.csv").write_text(text.replace("right decubitus", "supine"))
    assert len(read_manifest(tmp_path / "out/filled.csv")) == 3


def test_the_same_tree_gives_the_same_files(tmp_path):
    make_tree(tmp_path / "tree")
    for name in ("first", "second"):
        assert run("--root", tmp_path / "tree", "--out", tmp_path / name).returncode == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_nothing_imported_exits_2_and_leaves_nothing(tmp_path):
    write_series(tmp_path / "tree", None, lambda _, f: f | {0x00080060: ("CS", "MR")})
    done = run("--root", tmp_path / "tree", "--out", tmp_path / "out", "--json")
    assert done.returncode == 2 and "nothing of" in done.stderr and "modality MR" in done.stderr
    (refused,) = json.loads(done.stdout)["refused"]
    assert refused["files"] == 12 and "modality MR" in refused["reason"]
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_full_folder_and_a_missing_root_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    write_series(tmp_path / "tree")
    done = run("--root", tmp_path / "tree", "--out", tmp_path / "out")
    assert done.returncode == 2 and "not empty" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]
    done = run("--root", tmp_path / "none", "--out", tmp_path / "new")
    assert done.returncode == 2 and "no folder" in done.stderr
