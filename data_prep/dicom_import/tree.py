"""The series of a tree of DICOM, each with its subject: whole trees are looked through by headers.

Subjects are digests here, of whatever `--subject_from` names; nothing else of a person is kept.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edm3d.data.dicom import is_companion
from edm3d.data.dicom_header import read_header
from edm3d.data.workers import outcomes
from edm3d.errors import InputError

PATIENT, STUDY, FOLDER = "patient", "study", "folder"
_FILES_AT_ONCE = 500


@dataclass
class Group:
    """The files of one series of one subject; digests tell whose it is, empty where nothing does.

    `beside` says what is unreadable in its folders, where something is.
    """

    subject: str
    series: str
    number: int | None
    patient: str
    study: str
    birth: str
    sex: str
    files: list[Path] = field(default_factory=list)
    beside: str = ""


@dataclass
class Found:
    """What files are: series by subject and series, why others are unreadable, and a count of
    objects without pixels (reports, structures), which are passed over."""

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    without_pixels: int = 0

    def add(self, other: "Found") -> None:
        """Takes up what comes later in the tree."""
        for key, group in other.groups.items():
            if key in self.groups:
                self.groups[key].files += group.files
            else:
                self.groups[key] = group
        self.unreadable |= other.unreadable
        self.without_pixels += other.without_pixels


def _unreadable_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}); mend that") from error


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, onerror=_unreadable_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(names)):
            if not is_companion(path):
                yield path


def _subject(values: dict[str, Any], path: Path, root: Path, subject_from: str) -> str:
    """A digest of whose the file is; without a PatientID its study's or at last its series'."""
    series, study = values.get("series_digest") or "", values.get("study_digest")
    if subject_from == FOLDER:
        top = path.relative_to(root).parts[:-1][:1]
        return hashlib.sha256(os.fsencode("".join(top))).hexdigest()
    patient = values.get("patient_digest") if subject_from == PATIENT else None
    return patient or study or series


def _look(part: tuple[int, list[Path]], root: Path, subject_from: str) -> tuple[int, Found]:
    """What some files of the tree are, by their headers, with the number of the part."""
    number, files = part
    found = Found()
    for path in files:
        try:
            values = read_header(path).values
        except InputError as error:
            found.unreadable[path] = str(error)
            continue
        if not values.get("rows"):
            found.without_pixels += 1
            continue
        subject = _subject(values, path, root, subject_from)
        series = values.get("series_digest") or ""
        first = _empty_group(subject, series, values)
        found.groups.setdefault((subject, series), first).files.append(path)
    return number, found


def _empty_group(subject: str, series: str, values: dict[str, Any]) -> Group:
    number = values.get("series_number")

    def digest(name: str) -> str:
        return values.get(f"{name}_digest") or ""

    return Group(
        subject=subject,
        series=series,
        number=int(number[0]) if number else None,
        patient=digest("patient"),
        study=digest("study"),
        birth=digest("birth"),
        sex=digest("sex"),
    )


def _note_damage(groups: list[Group], unreadable: dict[Path, str]) -> None:
    """Notes of each group what lies unreadable beside its files and may be one of them."""
    by_folder: dict[Path, str] = {}
    for path, reason in unreadable.items():
        by_folder.setdefault(path.parent, reason)
    for group in groups:
        folders = {path.parent for path in group.files}
        group.beside = min((by_folder[f] for f in folders if f in by_folder), default="")


def find_groups(root: Path, subject_from: str, workers: int) -> tuple[list[Group], Found]:
    """The series of a tree in the order of their names to come, and all that was found."""
    files = list(_files(root))
    starts = range(0, len(files), _FILES_AT_ONCE)
    parts = [(start, files[start : start + _FILES_AT_ONCE]) for start in starts]
    task = partial(_look, root=root, subject_from=subject_from)
    bar = tqdm(total=len(files), unit="file", desc="headers", disable=None, mininterval=1.0)
    looked: dict[int, Found] = {}
    with bar:
        for start, one in outcomes(task, parts, min(workers, max(len(parts), 1))):
            looked[start] = one
            bar.update(min(_FILES_AT_ONCE, len(files) - start))
    found = Found()
    for start in sorted(looked):
        found.add(looked[start])
    order = sorted(found.groups.values(), key=lambda g: (g.subject, g.number or 0, g.series))
    _note_damage(order, found.unreadable)
    return order, found
