"""The table of scans: reading it with every fault named, pairing scans, splitting subjects.

One row is one scan. Paths are relative to the table. Read next: `edm3d.data.records`, which turns
the pairs into training records.
"""

import csv
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edm3d.data.cases import SPLITS, Ventilation
from edm3d.errors import InputError

REQUIRED = (
    "subject",
    "scan",
    "stage",
    "position",
    "phase",
    "peep_cmh2o",
    "tidal_volume_ml_kg",
    "ct",
)
_FILMS = ("xray_pa", "xray_lat")
_PIXELS = tuple(f"{film}_pixel_mm" for film in _FILMS)
OPTIONAL = ("series", "weight_kg", "lung_mask", "split", *_FILMS, *_PIXELS)
STAGES = ("early", "stabilised")
POSITIONS = ("supine", "prone")
PHASES = ("inspiration", "expiration")

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_SERIES = re.compile(r"\d{1,9}|[0-9a-f]{8}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Scan:
    """One row of the manifest; `row` is its line in a spreadsheet (the header is line 1).

    `ct` is a file or a folder of DICOM, of which `series` picks one series (number or key). It is
    None where only both films of that state exist: such a scan is a target without known truth. The
    square pixels of a film are `_pixel_mm` wide on the detector, where the file does not say so.
    """

    row: int
    subject: str
    scan: str
    stage: str
    position: str
    ventilation: Ventilation
    ct: Path | None
    weight_kg: float | None = None
    lung_mask: Path | None = None
    split: str | None = None
    xray_pa: Path | None = None
    xray_lat: Path | None = None
    xray_pa_pixel_mm: float | None = None
    xray_lat_pixel_mm: float | None = None
    series: str | None = None


Pair = tuple[Scan, Scan]  # prior, target


class _Faults:
    """Collects the lines of one error."""

    def __init__(self, name: str):
        self.name = name
        self.lines: list[str] = []
        self.cells: list[tuple[int, str]] = []  # row and column of each line

    def add(self, row: int, column: str, value: str, mend: str) -> None:
        value = value if len(value) <= 80 else value[:80] + "..."
        self.lines.append(f"{self.name} row {row}, column {column} is {value!r}; {mend}")
        self.cells.append((row, column))


def _read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of cells, stripped; blank rows become empty lists."""
    if not path.is_file():
        raise InputError(f"manifest {path} does not exist; give the path of a scans.csv")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, strict=True)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"manifest {path} is no UTF-8 CSV ({error}); save it as such") from error
    if not rows:
        raise InputError(f"manifest {path} is empty; its first line names the columns")
    return rows[0], [row if any(row) else [] for row in rows[1:]]


def _check_header(header: Sequence[str], name: str) -> None:
    """Raises one `InputError` for all missing, repeated and mistyped columns."""
    faults = []
    for column in REQUIRED:
        if column not in header:
            faults.append(f"{name} has no column {column!r}; add it")
    for column in sorted({c for c in header if c and header.count(c) > 1}):
        faults.append(f"{name} has column {column!r} {header.count(column)} times; keep one")
    for column in sorted(set(header) - {*REQUIRED, *OPTIONAL}):
        close = difflib.get_close_matches(column.lower(), (*REQUIRED, *OPTIONAL), 1, 0.8)
        if close:
            faults.append(f"{name} has an unknown column {column!r}; did you mean {close[0]!r}?")
    if faults:
        raise InputError("\n".join(faults))


class _Row:
    """The cells of one row; each reader notes a fault and returns a stand-in where it finds one."""

    def __init__(self, row: int, cells: dict[str, str], faults: _Faults):
        self.row = row
        self.cells = cells
        self.faults = faults

    def fault(self, column: str, mend: str) -> None:
        self.faults.add(self.row, column, self.cells.get(column, ""), mend)

    def identifier(self, column: str) -> str:
        value = self.cells[column]
        if not _ID.fullmatch(value) or "__" in value:
            self.fault(
                column,
                "use 1 to 64 of A-Z a-z 0-9 . _ - without a leading dot or dash or a double "
                "underscore",
            )
        return value

    def choice(self, column: str, choices: Sequence[str]) -> str:
        value = self.cells[column]
        if value not in choices:
            self.fault(column, f"use {' or '.join(choices)}")
        return value

    def series(self, column: str) -> str:
        value = self.cells[column]
        if not _SERIES.fullmatch(value):
            self.fault(column, "give the number of a DICOM series, or its key of 8 hex digits")
        return value

    def number(self, column: str, unit: str, *, zero_is_right: bool = False) -> float:
        text = self.cells[column]
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            self.fault(column, f"give a number ({unit}, decimal point)")
            return 0.0
        if value < 0 or (value == 0 and not zero_is_right):
            self.fault(column, f"give a {'non-negative' if zero_is_right else 'positive'} number")
        return value

    def file(self, column: str, folder: Path, allow_outside: bool) -> Path:
        try:
            path = (folder / self.cells[column]).resolve()
            found = path.is_file() or path.is_dir()
        except (ValueError, OSError, RuntimeError):  # a NUL, too long a name, a loop of links
            path, found = folder, False
        if not self.cells[column]:
            films = "leave it empty only beside both films, xray_pa and xray_lat"
            more = f", or of a folder of DICOM; {films}" if column == "ct" else ""
            self.fault(column, f"give the path of a file{more}")
        elif not allow_outside and not path.is_relative_to(folder):
            self.fault(column, f"it leaves the manifest's folder {folder}; pass --allow_outside")
        elif not found:
            self.fault(column, f"no such file beside the manifest in {folder}; correct the path")
        return path

    def optional(self, column: str, read: Callable):
        return read(column) if self.cells.get(column) else None


def _parse_row(row: _Row, folder: Path, allow_outside: bool) -> Scan:
    def file(column: str) -> Path:
        return row.file(column, folder, allow_outside)

    def ct() -> Path | None:
        if row.cells["ct"] or not all(row.cells.get(film) for film in _FILMS):
            return file("ct")
        for column in ("series", "lung_mask"):
            if row.cells.get(column):
                row.fault(column, "it belongs to a CT, and ct is empty; give both or neither")
        return None

    def pixel_mm(column: str) -> float:
        film = column.removesuffix("_pixel_mm")
        if not row.cells.get(film):
            row.fault(column, f"name the film in {film}, or clear the cell")
        return row.number(column, "mm, one of square pixels")

    return Scan(
        row=row.row,
        subject=row.identifier("subject"),
        scan=row.identifier("scan"),
        stage=row.choice("stage", STAGES),
        position=row.choice("position", POSITIONS),
        ventilation=Ventilation(
            peep_cmh2o=row.number("peep_cmh2o", "cmH2O", zero_is_right=True),
            tidal_volume_ml_kg=row.number("tidal_volume_ml_kg", "ml/kg"),
            phase=row.choice("phase", PHASES),
        ),
        ct=ct(),
        series=row.optional("series", row.series),
        weight_kg=row.optional("weight_kg", lambda column: row.number(column, "kg")),
        lung_mask=row.optional("lung_mask", file),
        split=row.optional("split", lambda column: row.choice(column, SPLITS)),
        xray_pa=row.optional("xray_pa", file),
        xray_lat=row.optional("xray_lat", file),
        xray_pa_pixel_mm=row.optional("xray_pa_pixel_mm", pixel_mm),
        xray_lat_pixel_mm=row.optional("xray_lat_pixel_mm", pixel_mm),
    )


def _check_repeats(scans: Sequence[Scan], faults: _Faults) -> None:
    _check_films_and_masks(scans, faults)
    names: dict[tuple[str, str], int] = {}
    files: dict[Path, list[Scan]] = {}
    for scan in scans:
        row = names.setdefault((scan.subject, scan.scan), scan.row)
        if row != scan.row:
            mend = f"row {row} of subject {scan.subject!r} has that name already; rename one"
            faults.add(scan.row, "scan", scan.scan, mend)
        if scan.ct is None or not scan.ct.exists():
            continue
        before = files.setdefault(scan.ct, [])
        for other in (o for o in before if not _differ(o, scan)):
            mend = f"row {other.row} uses the same file (or series of it); give each scan its own"
            faults.add(scan.row, "ct", scan.ct.name, mend)
            break
        before.append(scan)


def _check_films_and_masks(scans: Sequence[Scan], faults: _Faults) -> None:
    first: dict[Path, tuple[int, str]] = {}
    for scan, column in itertools.product(scans, ("lung_mask", *_FILMS)):
        path = getattr(scan, column)
        if path is None or not path.is_file():
            continue
        row, name = first.setdefault(path, (scan.row, column))
        if (row, name) != (scan.row, column):
            mend = f"{name} of row {row} is the same file; give each its own"
            faults.add(scan.row, column, path.name, mend)


def _differ(first: Scan, second: Scan) -> bool:
    """Whether two rows of one folder ask for two series, both by number or both by key."""
    one, other = first.series or "", second.series or ""
    both = bool(one and other) and (len(one) == 8) == (len(other) == 8)
    return both and one != other


def _check_splits(scans: Sequence[Scan], faults: _Faults, one_subject: bool) -> None:
    without = [scan for scan in scans if scan.split is None]
    if 0 < len(without) < len(scans):
        for scan in without:
            faults.add(scan.row, "split", "", "fill it in every row or in none")
    if one_subject:
        return
    first: dict[str, Scan] = {}
    for scan in scans:
        begin = first.setdefault(scan.subject, scan)
        if scan.split != begin.split and {scan.split, begin.split} <= set(SPLITS):
            mend = (
                f"subject {scan.subject!r} is in {begin.split!r} (row {begin.row}); use one split"
            )
            faults.add(scan.row, "split", scan.split or "", mend)


@dataclass(frozen=True)
class Rows:
    """What a manifest holds when its faults do not end the reading of it."""

    scans: list[Scan]  # of all rows; a cell that cannot be used has a stand-in
    unusable: set[tuple[int, str]]  # row and column of those cells
    faults: list[tuple[int, str]]  # row, and the line that names the fault and its mend


def read_rows(
    path: str | Path, allow_outside: bool = False, *, same_subject_splits: bool = False
) -> Rows:
    """The rows of a manifest and all that is wrong with them; see `read_manifest`.

    Raises `InputError` only for what is no table of scans at all.
    """
    path = Path(path)
    header, rows = _read_cells(path)
    _check_header(header, path.name)
    faults, scans = _Faults(path.name), []
    for number, cells in enumerate(rows, start=2):
        if not cells:
            continue
        if len(cells) > len(header):
            faults.add(number, str(len(header) + 1), cells[len(header)], "remove the extra cell")
        filled = dict(zip(header, cells + [""] * len(header), strict=False))
        scans.append(_parse_row(_Row(number, filled, faults), path.parent.resolve(), allow_outside))
    unusable = set(faults.cells)
    _check_repeats(scans, faults)
    _check_splits(scans, faults, same_subject_splits)
    if not scans:
        raise InputError(f"manifest {path} has no rows; add one row a scan")
    rows_of_faults = (row for row, _ in faults.cells)
    return Rows(scans, unusable, list(zip(rows_of_faults, faults.lines, strict=True)))


def read_manifest(
    path: str | Path, allow_outside: bool = False, *, same_subject_splits: bool = False
) -> list[Scan]:
    """The scans of a manifest; one `InputError` names every fault, a line each.

    `same_subject_splits` lets the scans of one subject lie in different splits: see
    `split_of_pair`.
    """
    found = read_rows(path, allow_outside, same_subject_splits=same_subject_splits)
    if found.faults:
        raise InputError("\n".join(line for _, line in found.faults))
    return found.scans


def pair_scans(scans: Sequence[Scan]) -> list[Pair]:
    """Ordered pairs (prior, target) of different scans of one subject, stage and position.

    A scan without CT is a target only.
    """
    groups = comparable_scans(scans)
    return [pair for group in groups for pair in itertools.permutations(group, 2) if pair[0].ct]


def comparable_scans(scans: Sequence[Scan]) -> Iterator[list[Scan]]:
    """Groups of scans of one subject, stage and position, in a fixed order."""

    def key(scan: Scan) -> tuple[str, str, str]:
        return scan.subject, scan.stage, scan.position

    for _, group in itertools.groupby(sorted(scans, key=lambda s: (key(s), s.scan)), key):
        yield list(group)


def assign_splits(
    scans: Sequence[Scan], seed: int, fractions: tuple[float, float, float]
) -> list[Scan]:
    """The scans with a split each: their own, or drawn by subject where the column is empty.

    `fractions` are of train, val and test subjects. With three subjects or more, each split whose
    fraction is above zero gets at least one.
    """
    if any(not 0 <= f <= 1 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"split_fractions is {fractions}; give three shares that sum to 1")
    if all(scan.split for scan in scans):
        return list(scans)
    subjects = np.array(sorted({scan.subject for scan in scans}))
    subjects = np.random.default_rng(seed).permutation(subjects)
    at_least = 1 if len(subjects) >= 3 else 0
    test, val = (
        max(round(f * len(subjects)), at_least if f > 0 else 0)
        for f in (fractions[2], fractions[1])
    )
    room = len(subjects) - (at_least if fractions[0] > 0 else 0)
    while test + val > room:  # both were rounded up
        test, val = (test - 1, val) if test > val else (test, val - 1)
    names = ["test"] * test + ["val"] * val + ["train"] * (len(subjects) - test - val)
    split_of = dict(zip(subjects.tolist(), names, strict=False))
    return [replace(scan, split=split_of[scan.subject]) for scan in scans]


def split_of_pair(pair: Pair) -> str | None:
    """The split of a pair: its target's; None for a pair that is in no records.

    With splits by subject both scans share one. With splits by scan, a training target with a
    held-back prior is in none, which keeps every val and test scan out of training. Without CT a
    scan is no prior, and as a target it teaches nothing: it is only in the test records.
    """
    prior, target = pair
    held_back = target.split == "train" and prior.split != "train"
    no_truth = target.ct is None and target.split != "test"
    return None if held_back or no_truth or prior.ct is None else target.split
