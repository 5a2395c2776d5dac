"""Whose the series of a tree are: by patient, study or folder, and when a PatientID is doubted."""

import csv
import re
from pathlib import Path

import pytest

from data_prep.import_dicom import import_tree
from edm3d.errors import InputError
from tests.data.dicom_phantoms import SERIES_UID, Fields, write_series

PATIENT, BIRTH, SEX, STUDY, SERIES = 0x00100020, 0x00100030, 0x00100040, 0x0020000D, 0x0020000E
HEAD = "subject,scan,series_number,slices,spacing_zyx_mm,folder\n"
Series = tuple[str, dict[int, str]]  # folder below the root, and fields


def study(number: int, patient: str, **more: str) -> Series:
    """A series in a study of its own; `more` may give its birth date and sex."""
    fields = {PATIENT: patient, STUDY: f"{SERIES_UID}.7.{number}", SERIES: f"{SERIES_UID}.{number}"}
    tags = {"birth": BIRTH, "sex": SEX}
    return f"{number // 2}/{number}", fields | {tags[name]: value for name, value in more.items()}


def write_tree(root: Path, series: list[Series]) -> Path:
    kinds = {PATIENT: "LO", BIRTH: "DA", SEX: "CS", STUDY: "UI", SERIES: "UI"}
    for folder, fields in series:
        more: Fields = {tag: (kinds[tag], value) for tag, value in fields.items()}
        write_series(root / folder, change=lambda _, f, more=more: f | more)
    return root


def subjects(out: Path) -> dict[str, str]:
    """The subject of every folder that was imported."""
    with (out / "sources.csv").open(newline="") as file:
        return {row["folder"].removeprefix("./"): row["subject"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("patient", ["ANON", ""])
def test_studies_or_folders_tell_subjects_apart_where_patient_ids_do_not(tmp_path, patient):
    tree = write_tree(tmp_path / "tree", [study(n, patient) for n in range(4)])
    made = {}
    for rule in ("patient", "study", "folder"):
        import_tree(tree, tmp_path / rule, subject_from=rule)
        made[rule] = subjects(tmp_path / rule)
    assert len(set(made["patient"].values())) == (1 if patient else 4)
    assert len(set(made["study"].values())) == 4
    by_folder = made["folder"]
    assert by_folder["0/0"] == by_folder["0/1"] != by_folder["1/2"] == by_folder["1/3"]
    for found in made.values():
        assert set(found.values()) <= {f"pig{n:03d}" for n in range(1, 5)}


def test_a_series_uid_that_two_patients_share_is_refused_in_both(tmp_path):
    first, second = study(0, "K1"), study(2, "K2")
    second[1][SERIES] = first[1][SERIES]
    outcome = import_tree(write_tree(tmp_path / "tree", [first, second]), tmp_path / "out")
    assert not outcome.imported
    assert ["lies in 2 subjects" in one.reason for one in outcome.refused] == [True, True]


DOUBTED = {
    "a placeholder": ([study(0, "ANON"), study(1, "ANON"), study(2, "K7")], "2 .*a placeholder"),
    "small letters": ([study(0, "unknown"), study(1, "unknown"), study(2, "K7")], "a placeholder"),
    "the only one": ([study(n, "K7") for n in range(3)], "3 studies .*no other one is in the tree"),
    "two births": (
        [study(0, "K7", birth="20200101"), study(1, "K7", birth="20200102"), study(2, "K8")],
        "2 studies share .*birth dates or sexes differ",
    ),
    "two sexes": (
        [study(0, "K7", sex="F"), study(1, "K7", sex="M"), study(2, "K8")],
        "birth dates or sexes differ",
    ),
    "none": ([study(0, ""), study(1, ""), study(2, "K8")], "2 studies have no PatientID: each"),
}
TRUSTED = {
    "an animal on two days": [
        *(study(n, "K7", birth="20200101", sex="F") for n in range(2)),
        *(study(n, "K8") for n in range(2, 4)),
    ],
    "a birth date in one study only": [
        *(study(0, "K7", birth="20200101"), study(1, "K7"), study(2, "K8")),
    ],
    "one study of a placeholder": [study(0, "ANON"), study(1, "K8")],
    "one study only": [study(0, "K7"), ("0/1", study(0, "K7")[1] | {SERIES: f"{SERIES_UID}.9"})],
}


@pytest.mark.parametrize("what", DOUBTED)
def test_a_patient_id_that_looks_anonymised_is_doubted_in_one_line_without_its_value(
    tmp_path, what, capsys
):
    series, says = DOUBTED[what]
    tree = write_tree(tmp_path / "tree", series)
    (warning,) = import_tree(tree, tmp_path / "out").warnings
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert line == f"warning: {warning}" and "--subject_from" in line
    assert re.search(says, line), line
    assert not any(value in line for _, fields in series for value in fields.values() if value)


@pytest.mark.parametrize("what", TRUSTED)
def test_a_patient_id_that_may_well_be_one_animals_is_not_doubted(tmp_path, what):
    tree = write_tree(tmp_path / "tree", TRUSTED[what])
    assert import_tree(tree, tmp_path / "out").warnings == []


def test_nothing_is_doubted_where_patient_ids_are_not_used(tmp_path):
    tree = write_tree(tmp_path / "tree", DOUBTED["a placeholder"][0])
    assert import_tree(tree, tmp_path / "out", subject_from="study").warnings == []


def named_scans(out: Path) -> dict[str, tuple[str, str]]:
    """Subject and scan of every folder that was imported."""
    with (out / "sources.csv").open(newline="") as file:
        return {row["folder"]: (row["subject"], row["scan"]) for row in csv.DictReader(file)}


def test_names_of_an_earlier_import_are_kept_when_the_tree_has_grown(tmp_path):
    early = [study(n, f"K{n}") for n in (3, 8, 14)]
    tree = write_tree(tmp_path / "tree", early)
    import_tree(tree, tmp_path / "first")
    before, table = named_scans(tmp_path / "first"), tmp_path / "first" / "sources.csv"
    import_tree(tree, tmp_path / "again", earlier=table)
    assert named_scans(tmp_path / "again") == before
    again = ("7/0", {**study(0, "K14")[1], SERIES: f"{SERIES_UID}.0"})  # an earlier subject's
    write_tree(tree, [*(study(n, f"K{n}") for n in range(16, 26)), again])
    import_tree(tree, tmp_path / "without")
    now = named_scans(tmp_path / "without")
    assert {folder: now[folder] for folder in before} != before  # else this test shows nothing
    for name, workers in (("second", 1), ("third", 2)):
        import_tree(tree, tmp_path / name, earlier=table, workers=workers)
        now = named_scans(tmp_path / name)
        assert {folder: now[folder] for folder in before} == before
        assert len({subject for subject, _ in now.values()}) == 13
        assert now["./7/0"] == (before["./7/14"][0], "s02")
        assert len(set(now.values())) == 14


def test_earlier_names_that_do_not_fit_are_refused(tmp_path):
    tree = write_tree(tmp_path / "tree", [study(n, "K1") for n in (0, 2)])
    import_tree(tree, tmp_path / "by_study", subject_from="study")
    import_tree(tree, tmp_path / "by_patient")
    for rule, other, says in (
        ("patient", "by_study", "a subject has the earlier names pig001, pig002; give the"),
        ("study", "by_patient", "2 subjects have the earlier name pig001; give the"),
    ):
        with pytest.raises(InputError, match=says):
            earlier = tmp_path / other / "sources.csv"
            import_tree(tree, tmp_path / "out", subject_from=rule, earlier=earlier)
    for text, says in (
        ("a,b\n1,2\n", "row 2 is no row of a sources.csv"),
        (HEAD + "../x,s01,1,2,3,./a\n", "row 2 has no name of an import"),
        (HEAD + "pig001,s01,1,2,3,./a\npig001,s02,1,2,3,./a\n", "row 3 tells nothing"),
    ):
        (tmp_path / "table.csv").write_text(text)
        with pytest.raises(InputError, match=says):
            import_tree(tree, tmp_path / "out", earlier=tmp_path / "table.csv")
    with pytest.raises(InputError, match="cannot be read"):
        import_tree(tree, tmp_path / "out", earlier=tmp_path / "none.csv")
