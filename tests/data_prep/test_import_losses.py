"""Slices that an import could lose without a word: split, without a size, linked or misnamed."""

from pathlib import Path

import pytest

from data_prep.dicom_import.outcome import Outcome
from data_prep.import_dicom import import_tree, show
from edm3d.data.volumes import read_ct
from tests.data.dicom_phantoms import SERIES_UID, SHAPE, refusal, write_file, write_series

PATIENT, STUDY, SERIES, NUMBER = 0x00100020, 0x0020000D, 0x0020000E, 0x00200011
CLASS, MODALITY, ROWS, COLUMNS, PIXELS = 0x00080016, 0x00080060, 0x00280010, 0x00280011, 0x7FE00010
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def reasons(outcome: Outcome) -> str:
    assert not any("\n" in one.reason for one in outcome.refused)
    return "; ".join(one.reason for one in outcome.refused)


def slices(outcome: Outcome) -> list[int]:
    return [one.slices for one in outcome.imported]


def without(*tags: int, only: tuple[int, ...] = (10, 11)):
    """A change that takes fields from some slices, by default from the highest two."""
    return lambda z, f: {t: v for t, v in f.items() if t not in tags or z not in only}


# One series in two subjects.


def patients_alternate(root: Path) -> None:
    write_series(root / "a", None, lambda z, f: f | {PATIENT: ("LO", "AB"[z % 2])})


def patient_lacks_in_half(root: Path) -> None:
    write_series(root / "a", None, without(PATIENT, only=(1, 3, 5, 7, 9, 11)))


def studies_alternate(root: Path) -> None:
    write_series(root / "a", None, lambda z, f: f | {STUDY: ("UI", f"{SERIES_UID}.{z % 2}")})


def folders_alternate(root: Path) -> None:
    for parity, name in enumerate("ab"):
        write_series(root / name, None, lambda z, f, p=parity: f if z % 2 == p else None)


SPLIT = {
    "patient": patients_alternate,
    "patient, where some have none": patient_lacks_in_half,
    "study": studies_alternate,
    "folder": folders_alternate,
}


@pytest.mark.parametrize("what", SPLIT)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_series_in_two_subjects_is_not_imported_as_two_of_half_the_slices(
    tmp_path, what, workers, monkeypatch
):
    monkeypatch.setattr("data_prep.dicom_import.tree._FILES_AT_ONCE", 5)
    SPLIT[what](tmp_path / "tree")
    other = {SERIES: ("UI", f"{SERIES_UID}.9"), PATIENT: ("LO", "C"), STUDY: ("UI", "1.9")}
    write_series(tmp_path / "tree" / "z", None, lambda _, f: f | other)
    rule = what.split(",")[0]
    outcome = import_tree(tmp_path / "tree", tmp_path / "out", subject_from=rule, workers=workers)
    assert slices(outcome) == [12]  # the other one
    assert [one.files for one in outcome.refused] == [6, 6]
    assert reasons(outcome).count("its series lies in 2 subjects") == 2
    assert SERIES_UID not in reasons(outcome)


def test_series_without_a_uid_are_told_apart_by_their_subjects(tmp_path):
    for name in "ab":
        no_uid = without(SERIES, only=tuple(range(12)))
        fields = {PATIENT: ("LO", name)}
        write_series(tmp_path / "tree" / name, None, lambda z, f, w=no_uid, m=fields: w(z, f | m))
    assert slices(import_tree(tmp_path / "tree", tmp_path / "out")) == [12, 12]


# Slices without a size.


@pytest.mark.parametrize(
    ("tags", "lacks"),
    [
        ((ROWS, COLUMNS, PIXELS), "rows or columns"),
        ((ROWS, COLUMNS), "rows or columns"),
        ((ROWS,), "rows"),
        ((COLUMNS,), "columns"),
        ((ROWS, COLUMNS, PIXELS, CLASS), "rows or columns"),  # known by its series
        ((ROWS, COLUMNS, CLASS, MODALITY, SERIES), "rows or columns"),  # by its pixels
    ],
)
def test_slices_without_rows_are_not_passed_over(tmp_path, tags, lacks):
    write_series(tmp_path / "tree" / "a", None, without(*tags))
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    assert not outcome.imported and outcome.without_pixels == 0
    fault = f"010.dcm has no {lacks}, but belongs to an image series"
    assert fault in reasons(outcome) and f"beside its slices {tmp_path}" in reasons(outcome)
    assert fault in refusal(tmp_path / "tree" / "a")


def test_a_slice_without_rows_is_of_its_series_in_whatever_folder_and_of_no_other(tmp_path):
    write_series(tmp_path / "tree" / "a", None, lambda z, f: f if z < 10 else None)
    write_series(tmp_path / "tree" / "b", None, lambda z, f: without(ROWS)(z, f) if z > 9 else None)
    other = {SERIES: ("UI", f"{SERIES_UID}.9")}
    write_series(tmp_path / "tree" / "b", None, lambda _, f: f | other, names="o{:03d}".format)
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    assert [one.folder for one in outcome.imported] == ["./b"]
    assert "010.dcm has no rows" in reasons(outcome)


NO_IMAGES = {
    "a report": {CLASS: ("UI", REPORT), MODALITY: ("CS", "SR"), SERIES: ("UI", "1.2.9")},
    "a report in the images' series": {CLASS: ("UI", REPORT), SERIES: ("UI", SERIES_UID)},
    "a structure by its modality": {MODALITY: ("CS", "RTSTRUCT"), SERIES: ("UI", SERIES_UID)},
    "an unknown class in a series of its own": {CLASS: ("UI", "1.3.9"), SERIES: ("UI", "1.2.9")},
    "a table of contents": {0x00041130: ("CS", "SET")},
}


@pytest.mark.parametrize("what", NO_IMAGES)
def test_what_is_no_image_is_passed_over_with_a_count(tmp_path, what, capsys):
    hu = write_series(tmp_path / "tree" / "a")
    write_file(tmp_path / "tree" / "a" / "object", NO_IMAGES[what])
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    assert slices(outcome) == [12] and not outcome.refused and outcome.without_pixels == 1
    show(outcome, tmp_path / "out")
    assert "passed over: 1 objects without pixels" in capsys.readouterr().out
    assert (read_ct(tmp_path / "tree" / "a").values == hu).all()


# Linked folders.


def test_linked_folders_are_looked_through_once(tmp_path):
    tree = tmp_path / "tree"
    write_series(tmp_path / "elsewhere" / "deep", None)
    other = {SERIES: ("UI", f"{SERIES_UID}.9")}
    write_series(tree / "here", None, lambda _, f: f | other)
    (tree / "a").symlink_to(tmp_path / "elsewhere")
    (tree / "b").symlink_to(tmp_path / "elsewhere")  # the same again
    (tree / "another-name").symlink_to(tree / "here")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (tree / "here" / "up").symlink_to("..")
    outcome = import_tree(tree, tmp_path / "out")
    assert slices(outcome) == [12, 12] and not outcome.refused
    assert {one.folder for one in outcome.imported} == {"./a/deep", "./here"}


def test_a_root_that_is_a_link_is_looked_through(tmp_path):
    write_series(tmp_path / "real")
    (tmp_path / "tree").symlink_to(tmp_path / "real")
    assert slices(import_tree(tmp_path / "tree", tmp_path / "out")) == [12]


# Names.

NAMES = {
    ".jpg": "{:03d}.jpg",
    ".gz": "{:03d}.dcm.gz",
    "hidden": ".{:03d}",
    ".txt": "{:03d}.TXT",
}


@pytest.mark.parametrize("what", NAMES)
def test_slices_of_any_name_are_read(tmp_path, what):
    def name(z: int) -> str:
        return NAMES[what].format(z) if z > 9 else f"{z:03d}.dcm"

    hu = write_series(tmp_path / "tree" / "a", names=name)
    assert slices(import_tree(tmp_path / "tree", tmp_path / "out")) == [SHAPE[0]]
    assert (read_ct(tmp_path / "tree" / "a").values == hu).all()


def test_what_names_rule_out_is_counted(tmp_path, capsys):
    write_series(tmp_path / "tree" / "a")
    write_series(tmp_path / "tree" / ".trash")
    for name in ("notes.txt", ".DS_Store", "DICOMDIR", "thumb.jpg"):
        (tmp_path / "tree" / "a" / name).write_bytes(bytes(200))
    (tmp_path / "tree" / "a" / ".#lock").symlink_to("nobody@nowhere")
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    assert slices(outcome) == [12] and outcome.passed_by_name == 6
    show(outcome, tmp_path / "out")
    assert "passed over: 6 files or hidden folders" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["two\nlines", "bell\a", "\x1b[31mred", "\u2028", "\udcff"])
def test_a_name_splits_no_line_and_steers_no_terminal(tmp_path, name, capsys):
    (tmp_path / "tree" / name).mkdir(parents=True)
    write_series(tmp_path / "tree" / name, None, lambda z, f: f if z != 5 else None)
    write_series(tmp_path / "tree" / "b", None, lambda _, f: f | {SERIES: ("UI", "1.2.9")})
    (tmp_path / "tree" / "c" / name).mkdir(parents=True)
    (tmp_path / "tree" / "c" / name / f"{name}.dcm").write_bytes(b"")
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    show(outcome, tmp_path / f"out{name}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.isprintable() for line in lines)
    assert sum(line.startswith("refused: ") for line in lines) == 2
    table = (tmp_path / "out" / "refused.csv").read_text()
    assert len(table.splitlines()) == 3


# Series numbers.


@pytest.mark.parametrize("number", ["4abc", "1e300", "1e999", "4.5", "", "nan", "99999999999"])
def test_a_series_number_that_is_none_is_unknown(tmp_path, number):
    hu = write_series(tmp_path / "tree" / "a", None, lambda _, f: f | {NUMBER: ("IS", number)})
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    assert [one.series_number for one in outcome.imported] == [None]
    assert (read_ct(tmp_path / "tree" / "a").values == hu).all()
    assert len((tmp_path / "out" / "sources.csv").read_text()) < 200


@pytest.mark.parametrize(("number", "is_"), [("4", 4), ("+4", 4), ("-4", -4), ("4.0", 4)])
def test_a_series_number_is_read(tmp_path, number, is_):
    write_series(tmp_path / "tree" / "a", None, lambda _, f: f | {NUMBER: ("IS", number)})
    outcome = import_tree(tmp_path / "tree", tmp_path / "out")
    assert [one.series_number for one in outcome.imported] == [is_]
