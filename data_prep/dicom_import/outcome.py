"""What an import gave, under neutral names, and its tables."""

import csv
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.dicom_import.convert import Converted, Refused
from data_prep.dicom_import.earlier import COLUMNS, Names, kept_subjects, key_of, told
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


def _free(pattern: str, taken: Collection[str]) -> Iterator[str]:
    """The names of a pattern from 1 on that are not taken."""
    return (n for n in map(pattern.format, itertools.count(1)) if n not in taken)


def named(
    series: Sequence[tuple[Group, Converted]], earlier: Names
) -> tuple[list[Imported], dict[str, str]]:
    """The scans with neutral names, and where each file of them waits.

    What has a name in `earlier` keeps it; no other gets it.
    """
    by_subject: dict[str, list[Converted]] = defaultdict(list)
    for group, one in series:
        by_subject[group.subject].append(one)
    kept = kept_subjects({s: [one.facts for one in m] for s, m in by_subject.items()}, earlier)
    new_subjects = _free("pig{:03d}", {name for name, _ in earlier.values()})
    names = {subject: kept.get(subject) or next(new_subjects) for subject in sorted(by_subject)}
    imported, sources = [], {}
    for subject in sorted(names, key=lambda subject: int(names[subject].removeprefix("pig"))):
        name = names[subject]
        new_scans = _free("s{:02d}", {scan for pig, scan in earlier.values() if pig == name})
        for one in by_subject[subject]:
            scan = earlier.get(key_of(one.facts), ("", ""))[1] or next(new_scans)
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
    rows = [asdict(one) | told(vars(one)) for one in outcome.imported]
    known = ("subject", "scan", "position", "ct")
    _write_table(folder / "scans.csv", REQUIRED, [{k: row[k] for k in known} for row in rows])
    _write_table(folder / "sources.csv", COLUMNS, [{k: row[k] for k in COLUMNS} for row in rows])
    refused = [asdict(one) for one in outcome.refused]
    _write_table(folder / "refused.csv", tuple(Refused.__dataclass_fields__), refused)
