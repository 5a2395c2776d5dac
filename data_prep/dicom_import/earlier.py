"""Names that an earlier import gave, so that a tree that has grown keeps them.

A series is known again by what `sources.csv` tells of it: folder, number, slices and spacing. Its
subject then keeps its name with all its series, new ones too.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.dicom_import.convert import Facts
from edm3d.errors import InputError

COLUMNS = ("subject", "scan", "series_number", "slices", "spacing_zyx_mm", "folder")
Key = tuple[str, ...]
Names = dict[Key, tuple[str, str]]  # subject and scan of each series


def told(facts: Mapping[str, Any]) -> dict[str, str]:
    """What `sources.csv` says of a series, beside its names; `facts` has the fields of `Facts`."""
    number = facts["series_number"]
    return {
        "series_number": "" if number is None else str(number),
        "slices": str(facts["slices"]),
        "spacing_zyx_mm": " ".join(f"{s:.6g}" for s in facts["spacing_zyx_mm"]),
        "folder": facts["folder"],
    }


def key_of(facts: Facts) -> Key:
    """What a series is known again by."""
    return tuple(told(vars(facts)).values())


def read_earlier(path: Path) -> Names:
    """The names in a `sources.csv`; raises `InputError` where it is none or tells two alike."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"--earlier is {path}, which cannot be read ({error})") from error
    names: Names = {}
    for number, row in enumerate(rows, start=2):
        if set(row) != set(COLUMNS) or None in row.values():
            raise InputError(f"--earlier is {path}, whose row {number} is no row of a sources.csv")
        subject, scan = row["subject"], row["scan"]
        if not (re.fullmatch(r"pig\d{3,9}", subject) and re.fullmatch(r"s\d{2,9}", scan)):
            raise InputError(f"--earlier is {path}, whose row {number} has no name of an import")
        key = tuple(row[column] for column in COLUMNS[2:])
        if key in names:
            raise InputError(
                f"--earlier is {path}, whose row {number} tells nothing that an earlier row does "
                "not: its series would not be known again; import without --earlier"
            )
        names[key] = subject, scan
    return names


def kept_subjects(series: Mapping[str, Sequence[Facts]], earlier: Names) -> dict[str, str]:
    """The earlier name of each subject that has one; raises `InputError` where none is right."""
    counts = Counter(key_of(one) for members in series.values() for one in members)
    kept: dict[str, str] = {}
    for subject, members in series.items():
        known = {earlier[key][0]: one for one in members if (key := key_of(one)) in earlier}
        for one in known.values():
            if counts[key_of(one)] > 1:
                raise InputError(f"{one.folder} holds series that --earlier does not tell apart")
        if len(known) > 1:
            raise InputError(
                f"a subject has the earlier names {', '.join(sorted(known))}; give the "
                "--subject_from of the earlier import, or import without --earlier"
            )
        if known:
            (kept[subject],) = known
    for name, number in Counter(kept.values()).items():
        if number > 1:
            raise InputError(
                f"{number} subjects have the earlier name {name}; give the --subject_from of the "
                "earlier import, or import without --earlier"
            )
    return kept
