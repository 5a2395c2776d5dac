"""What an import gave, under neutral names, and its tables."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.dicom_import.convert import Converted, Refused
from data_prep.dicom_import.tree import Group
from edm3d.data.manifest import REQUIRED


@dataclass(frozen=True)
class Imported:
    """A series that became a scan; `folder` is relative to the root."""

    subject: str
    scan: str
    position: str
    series_number: int | None
    slices: int
    spacing_zyx_mm: tuple[float, float, float]
    folder: str
    ct: str


@dataclass(frozen=True)
class Outcome:
    imported: list[Imported]
    refused: list[Refused]
    without_pixels: int
    passed_by_name: int
    warnings: list[str]


def named(series: Sequence[tuple[Group, Converted]]) -> tuple[list[Imported], dict[str, str]]:
    """The scans with neutral names, and where each file of them waits."""
    by_subject: dict[str, list[Converted]] = defaultdict(list)
    for group, one in series:
        by_subject[group.subject].append(one)
    imported, sources = [], {}
    for index, subject in enumerate(sorted(by_subject), start=1):
        for number, one in enumerate(by_subject[subject], start=1):
            name, scan = f"pig{index:03d}", f"s{number:02d}"
            ct = f"{name}_{scan}.nii.gz"
            sources[ct] = one.source
            imported.append(Imported(subject=name, scan=scan, ct=ct, **vars(one.facts)))
    return imported, sources


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_tables(outcome: Outcome, folder: Path) -> None:
    """Writes scans.csv, sources.csv and refused.csv."""
    rows = [asdict(one) for one in outcome.imported]
    known = ("subject", "scan", "position", "ct")
    _write_table(folder / "scans.csv", REQUIRED, [{k: row[k] for k in known} for row in rows])
    sources = ("subject", "scan", "series_number", "slices", "spacing_zyx_mm", "folder")
    for row in rows:
        row["spacing_zyx_mm"] = " ".join(f"{s:.6g}" for s in row["spacing_zyx_mm"])
    _write_table(folder / "sources.csv", sources, [{k: row[k] for k in sources} for row in rows])
    refused = [asdict(one) for one in outcome.refused]
    _write_table(folder / "refused.csv", tuple(Refused.__dataclass_fields__), refused)
