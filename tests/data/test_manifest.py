import re

import pytest

from edm3d.data.manifest import (
    assign_splits,
    pair_scans,
    read_manifest,
    split_of_pair,
)
from edm3d.errors import InputError
from tests.data.phantoms import COLUMNS, write_manifest

GOOD = dict(
    subject="pig1",
    scan="s1",
    stage="early",
    position="supine",
    phase="inspiration",
    peep_cmh2o="5",
    tidal_volume_ml_kg="8.5",
    ct="a.nii.gz",
    lung_mask="",
    split="train",
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def row(**changes):
    return {**GOOD, **changes}


def write_table(folder, rows):
    """A manifest of whatever columns the rows have."""
    lines = [",".join(rows[0]), *(",".join(r.values()) for r in rows)]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def faults_of(path, **options) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_manifest(path, **options)
    return str(caught.value).splitlines()


def test_a_right_row_becomes_a_scan(folder):
    (scan,) = read_manifest(write_manifest(folder, [row(lung_mask="b.nii.gz")]))
    assert (scan.row, scan.subject, scan.scan, scan.split) == (2, "pig1", "s1", "train")
    assert (scan.ventilation.peep_cmh2o, scan.ventilation.tidal_volume_ml_kg) == (5.0, 8.5)
    assert scan.ct == folder / "a.nii.gz" and scan.lung_mask == folder / "b.nii.gz"
    assert scan.weight_kg is None and scan.xray_pa is None


@pytest.mark.parametrize(
    "column, value, mend",
    [
        ("phase", "inhale", "inspiration or expiration"),
        ("stage", "late", "early or stabilised"),
        ("position", "left", "supine or prone"),
        ("split", "holdout", "train or val or test"),
        ("peep_cmh2o", "five", "give a number"),
        ("peep_cmh2o", "5,0", "decimal point"),
        ("peep_cmh2o", "-1", "non-negative"),
        ("peep_cmh2o", "nan", "give a number"),
        ("peep_cmh2o", "1e999", "give a number"),
        ("tidal_volume_ml_kg", "0", "positive"),
        ("tidal_volume_ml_kg", "", "give a number"),
        ("tidal_volume_ml_kg", "inf", "give a number"),
        ("subject", "pig/1", "A-Z"),
        ("subject", "<script>", "A-Z"),
        ("subject", "..", "leading dot"),
        ("subject", "a__b", "double underscore"),
        ("subject", "=1+1", "A-Z"),
        ("scan", "", "A-Z"),
        ("scan", "x" * 65, "64"),
        ("ct", "none.nii.gz", "no such file"),
        ("ct", "", "give the path"),
        ("ct", "../secret.nii.gz", "leaves the manifest's folder"),
        ("ct", "/etc/hostname", "leaves the manifest's folder"),
        ("ct", "a\0.nii.gz", "no such file"),
        ("ct", "=cmd|' /C calc'!A0", "no such file"),
        ("ct", "x" * 5000, "no such file"),
        ("ct", "loop/a", "no such file"),
        ("subject", "=cmd|' /C calc'!A0", "A-Z"),
        ("subject", "-2+3", "leading dot or dash"),
        ("subject", "@SUM(A1)", "A-Z"),
        ("subject", "pig\\1", "A-Z"),
        ("scan", "<img src=x onerror=alert(1)>", "A-Z"),
        ("series", "1.2.840.113704", "number of a DICOM series"),
        ("series", "-4", "number of a DICOM series"),
        ("lung_mask", "none.nii.gz", "no such file"),
    ],
)
def test_a_fault_names_row_column_value_and_mend(folder, column, value, mend):
    path = write_manifest(folder, [row(scan="s0", ct="b.nii.gz"), row(**{column: value})])
    (line,) = faults_of(path)
    shown = value if len(value) <= 80 else value[:80] + "..."
    assert f"row 3, column {column} is {shown!r}; " in line and mend in line


def test_ct_may_be_a_folder_of_dicom_and_name_its_series(folder):
    (folder / "scans").mkdir()
    rows = [row(ct="scans", series="4"), row(scan="s2", ct="scans", series="12"), row(scan="s3")]
    scans = read_manifest(write_manifest(folder, rows))
    assert [scan.series for scan in scans] == ["4", "12", None]
    assert scans[0].ct == folder / "scans"


@pytest.mark.parametrize("first, second", [("", ""), ("4", "4"), ("4", ""), ("4", "0a1b2c3d")])
def test_one_series_may_not_be_two_scans(folder, first, second):
    (folder / "scans").mkdir()
    rows = [row(ct="scans", series=first), row(scan="s2", ct="scans", series=second)]
    (line,) = faults_of(write_manifest(folder, rows))
    assert "row 3, column ct" in line and "same file (or series of it)" in line


def test_all_faults_come_at_once(folder):
    path = write_manifest(
        folder, [row(phase="x", peep_cmh2o="y"), row(scan="s/2", ct="missing.nii.gz")]
    )
    lines = faults_of(path)
    assert [re.search(r"row (\d), column (\w+)", line).groups() for line in lines] == [
        ("2", "peep_cmh2o"),
        ("2", "phase"),
        ("3", "scan"),
        ("3", "ct"),
    ]


def test_faults_of_the_header(folder):
    header = COLUMNS.replace("phase,", "").replace("lung_mask", "lungmask") + ",ct"
    (folder / "m.csv").write_text(header + "\n")
    lines = faults_of(folder / "m.csv")
    assert any("no column 'phase'" in line for line in lines)
    assert any("'ct' 2 times" in line for line in lines)
    assert any("did you mean 'lung_mask'" in line for line in lines)


def test_a_repeated_scan_and_a_repeated_file_are_faults(folder):
    path = write_manifest(folder, [row(), row(), row(scan="s2", subject="pig2", ct="b.nii.gz")])
    lines = faults_of(path)
    assert len(lines) == 2 and "row 2 of subject 'pig1'" in lines[0] and "same file" in lines[1]


@pytest.mark.parametrize("column", ["lung_mask", "xray_pa", "xray_lat"])
def test_a_film_or_mask_of_two_rows_is_a_fault(folder, column):
    rows = [row(), row(scan="s2", ct="b.nii.gz")]
    rows = [{"xray_pa": "", "xray_lat": "", **r, column: "c.nii.gz"} for r in rows]
    (line,) = faults_of(write_table(folder, rows))
    assert f"row 3, column {column} is 'c.nii.gz'; {column} of row 2 is the same file" in line


def test_one_film_as_both_views_of_a_row_is_a_fault(folder):
    (line,) = faults_of(write_table(folder, [row(xray_pa="c.nii.gz", xray_lat="c.nii.gz")]))
    assert "row 2, column xray_lat" in line and "xray_pa of row 2 is the same file" in line


@pytest.mark.parametrize(
    "value, mend",
    [
        ("0.2 x 0.2", "give a number (mm, one of square pixels, decimal point)"),
        ("0.2;0.3", "give a number (mm, one of square pixels, decimal point)"),
        ("0", "give a positive number"),
        ("-0.2", "give a positive number"),
    ],
)
def test_a_film_s_pixel_size_is_one_positive_number(folder, value, mend):
    rows = [row(xray_pa="b.nii.gz", xray_lat="c.nii.gz", xray_lat_pixel_mm="0.15")]
    (scan,) = read_manifest(write_table(folder, rows))
    assert (scan.xray_pa_pixel_mm, scan.xray_lat_pixel_mm) == (None, 0.15)
    (line,) = faults_of(write_table(folder, [{**rows[0], "xray_lat_pixel_mm": value}]))
    assert f"row 2, column xray_lat_pixel_mm is {value!r}; {mend}" in line


def test_a_pixel_size_without_its_film_is_a_fault(folder):
    (line,) = faults_of(write_table(folder, [row(xray_pa="", xray_pa_pixel_mm="0.2")]))
    assert "row 2, column xray_pa_pixel_mm is '0.2'; name the film in xray_pa, or clear" in line


FILMS = dict(xray_pa="c.nii.gz", xray_lat="d.nii.gz")


def test_ct_may_be_empty_beside_both_films(folder):
    rows = [row(xray_pa="", xray_lat=""), row(scan="s2", ct="", **FILMS)]
    scans = read_manifest(write_table(folder, rows))
    assert [scan.ct for scan in scans] == [folder / "a.nii.gz", None]
    for films in ({}, {"xray_pa": "c.nii.gz", "xray_lat": ""}):
        (line,) = faults_of(write_table(folder, [row(ct="", **films)]))
        assert "column ct" in line and "leave it empty only beside both films" in line
    (line,) = faults_of(write_table(folder, [row(ct="", **{**FILMS, "xray_lat": "none.png"})]))
    assert "column xray_lat" in line


@pytest.mark.parametrize("column, value", [("lung_mask", "b.nii.gz"), ("series", "4")])
def test_what_belongs_to_a_ct_is_not_given_without_one(folder, column, value):
    (line,) = faults_of(write_table(folder, [row(ct="", **{**FILMS, column: value})]))
    assert f"row 2, column {column}" in line and "belongs to a CT" in line


@pytest.mark.parametrize("split, expected", [("train", None), ("val", None), ("test", "test")])
def test_a_scan_without_ct_is_a_target_only_and_only_in_test(folder, split, expected):
    none = dict(xray_pa="", xray_lat="")
    rows = [row(**none, split=split), row(scan="s2", ct="b.nii.gz", **none, split=split)]
    rows.append(row(scan="s3", ct="", **FILMS, split=split))
    pairs = pair_scans(read_manifest(write_table(folder, rows)))
    splits = {(a.scan, b.scan): split_of_pair((a, b)) for a, b in pairs}
    with_truth = {("s1", "s2"): split, ("s2", "s1"): split}
    assert splits == {**with_truth, ("s1", "s3"): expected, ("s2", "s3"): expected}
    scans = {scan.scan: scan for scan in read_manifest(write_table(folder, rows))}
    assert split_of_pair((scans["s3"], scans["s1"])) is None


def test_a_subject_in_two_splits_is_a_fault_unless_splits_hold_for_scans(folder):
    path = write_manifest(folder, [row(), row(scan="s2", ct="b.nii.gz", split="test")])
    (line,) = faults_of(path)
    assert "row 3" in line and "'pig1' is in 'train' (row 2)" in line
    assert len(read_manifest(path, same_subject_splits=True)) == 2


def test_splits_are_filled_in_every_row_or_in_none(folder):
    path = write_manifest(folder, [row(), row(scan="s2", ct="b.nii.gz", split="")])
    (line,) = faults_of(path)
    assert "row 3, column split" in line and "every row or in none" in line


def test_paths_may_leave_the_folder_only_when_told(folder):
    inner = folder / "inner"
    inner.mkdir()
    path = write_manifest(inner, [row(ct="../a.nii.gz")])
    assert "--allow_outside" in faults_of(path)[0]
    assert read_manifest(path, allow_outside=True)[0].ct == folder / "a.nii.gz"
    (inner / "link.nii.gz").symlink_to(folder / "a.nii.gz")
    assert "leaves" in faults_of(write_manifest(inner, [row(ct="link.nii.gz")]))[0]


def test_bom_windows_lines_and_blank_rows_are_read(folder):
    text = write_manifest(folder, [row(), row(scan="s2", ct="b.nii.gz")]).read_text()
    lines = text.splitlines()
    body = "\r\n".join([*lines[:2], "", "," * 9, lines[2]]) + "\r\n"
    (folder / "w.csv").write_bytes(b"\xef\xbb\xbf" + body.encode())
    assert [scan.row for scan in read_manifest(folder / "w.csv")] == [2, 5]


@pytest.mark.parametrize(
    "data, mend",
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "no UTF-8"),
        ((COLUMNS + "\n").encode(), "no rows"),
        ((COLUMNS + '\n"pig').encode(), "no UTF-8 CSV"),
    ],
)
def test_what_is_no_table_is_refused(folder, data, mend):
    (folder / "m.csv").write_bytes(data)
    assert mend in faults_of(folder / "m.csv")[0]
    assert "does not exist" in faults_of(folder / "none.csv")[0]


def test_too_many_cells_are_a_fault(folder):
    path = write_manifest(folder, [row()])
    path.write_text(path.read_text().rstrip() + ",extra\n")
    assert "'extra'" in faults_of(path)[0]


def cohort(folder, subjects, **changes):
    rows = []
    for subject in subjects:
        for scan in ("x", "y", "z"):
            name = f"{subject}{scan}.nii.gz"
            (folder / name).touch()
            rows.append(row(subject=subject, scan=scan, ct=name, **{"split": "", **changes}))
    return rows


def test_pairs_are_ordered_and_share_subject_stage_and_position(folder):
    rows = cohort(folder, ["p", "q"])
    rows[1]["stage"], rows[3]["position"] = "stabilised", "prone"
    pairs = pair_scans(read_manifest(write_manifest(folder, rows)))
    names = [(a.subject, a.scan, b.scan) for a, b in pairs]
    assert names == [("p", "x", "z"), ("p", "z", "x"), ("q", "y", "z"), ("q", "z", "y")]


def test_splits_go_by_subject_and_follow_the_seed(folder):
    scans = read_manifest(write_manifest(folder, cohort(folder, [f"p{i}" for i in range(10)])))
    splits = [
        {s.subject: s.split for s in assign_splits(scans, seed, (0.7, 0.1, 0.2))}
        for seed in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]
    assert list(splits[0].values()).count("train") == 7
    assert list(splits[0].values()).count("test") == 2
    every = assign_splits(scans, 0, (0.7, 0.1, 0.2))
    assert len({(s.subject, s.split) for s in every}) == 10


def test_small_cohorts_fill_every_split_and_one_subject_trains(folder):
    three = read_manifest(write_manifest(folder, cohort(folder, ["p", "q", "r"])))
    assert {s.split for s in assign_splits(three, 0, (0.9, 0.05, 0.05))} == {"train", "val", "test"}
    four = read_manifest(write_manifest(folder, cohort(folder, ["p", "q", "r", "s"])))
    for shares in ((0.2, 0.4, 0.4), (0.05, 0.05, 0.9), (0.05, 0.9, 0.05), (0.4, 0.3, 0.3)):
        for scans in (three, four):
            found = {s.split for s in assign_splits(scans, 0, shares)}
            assert found == {"train", "val", "test"}, shares
    one = [s for s in three if s.subject == "p"]
    assert {s.split for s in assign_splits(one, 0, (0.8, 0.1, 0.1))} == {"train"}
    with pytest.raises(InputError, match="sum to 1"):
        assign_splits(one, 0, (0.8, 0.8, 0.1))


def test_given_splits_stay(folder):
    scans = read_manifest(write_manifest(folder, cohort(folder, ["p", "q", "r"], split="val")))
    assert assign_splits(scans, 0, (1.0, 0.0, 0.0)) == scans


def test_a_held_back_scan_never_enters_training(folder):
    rows = cohort(folder, ["p"])
    for entry, split in zip(rows, ("train", "train", "test"), strict=True):
        entry["split"] = split
    scans = read_manifest(write_manifest(folder, rows), same_subject_splits=True)
    splits = {(a.scan, b.scan): split_of_pair((a, b)) for a, b in pair_scans(scans)}
    assert splits == {
        ("x", "y"): "train",
        ("y", "x"): "train",
        ("x", "z"): "test",
        ("y", "z"): "test",
        ("z", "x"): None,
        ("z", "y"): None,
    }
