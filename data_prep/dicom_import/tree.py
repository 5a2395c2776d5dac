"""The series of a tree of DICOM, each with its subject: whole trees are looked through by headers.

Subjects are digests here, of whatever `--subject_from` names; nothing else of a person is kept.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edm3d.data.dicom import is_companion
from edm3d.data.dicom_header import Header, read_header
from edm3d.data.dicom_kind import is_broken_image, is_no_image, lost_size, missing_size
from edm3d.data.workers import outcomes
from edm3d.errors import InputError

PATIENT, STUDY, FOLDER = "patient", "study", "folder"
_FILES_AT_ONCE = 500


@dataclass
class Group:
    """The files of one series of one subject; digests tell whose it is, empty where nothing does.

    `fault` says why it is refused unread, where that is known: something in its folders is
    unreadable, or its series lies in other subjects too.
    """

    subject: str
    series: str
    number: int | None
    patient: str
    study: str
    birth: str
    sex: str
    files: list[Path] = field(default_factory=list)
    fault: str = ""


@dataclass
class Found:
    """What files are: series by subject and series, why others are unreadable, and counts of what
    is passed over: objects without pixels (reports, structures), and by name what is no DICOM.

    `sizeless` are objects without rows or columns that may be images, with their series.
    """

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    sizeless: dict[Path, "Sizeless"] = field(default_factory=dict)
    without_pixels: int = 0
    by_name: int = 0

    def add(self, other: "Found") -> None:
        """Takes up what comes later in the tree."""
        for key, group in other.groups.items():
            if key in self.groups:
                self.groups[key].files += group.files
            else:
                self.groups[key] = group
        self.unreadable |= other.unreadable
        self.sizeless |= other.sizeless
        self.without_pixels += other.without_pixels


@dataclass(frozen=True)
class Sizeless:
    """An object without rows or columns: why it would be refused, and whether it is in any case."""

    series: str
    fault: str
    broken: bool


def _unreadable_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}); mend that") from error


def _is_seen(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether the folder was met before, by this or another name; notes it."""
    try:
        stat = os.stat(folder)
    except OSError as error:
        _unreadable_folder(error)
    place = stat.st_dev, stat.st_ino
    known = place in seen
    seen.add(place)
    return known


def _walk(root: Path) -> Iterator[tuple[str, list[str], int]]:
    """Every folder once, with the names of its files and the number of its hidden folders.

    Linked folders are followed, after all others: a loop ends, and a folder that lies in the tree
    itself keeps its own name.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [str(root)]
    for start in waiting:
        for folder, folders, names in os.walk(start, onerror=_unreadable_folder):
            if _is_seen(folder, seen):
                folders.clear()
                continue
            open_ones = sorted(name for name in folders if not name.startswith("."))
            links = [name for name in open_ones if os.path.islink(os.path.join(folder, name))]
            waiting += [os.path.join(folder, name) for name in links]
            yield folder, sorted(names), len(folders) - len(open_ones)
            folders[:] = [name for name in open_ones if name not in links]


def _files(root: Path) -> tuple[list[Path], int]:
    """The files of a tree that may be DICOM, and how many files and folders names rule out."""
    files, passed = [], 0
    for folder, names, hidden in _walk(root):
        paths = [Path(folder, name) for name in names]
        kept = [path for path in paths if not is_companion(path)]
        files += kept
        passed += hidden + len(paths) - len(kept)
    return files, passed


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
            header = read_header(path)
        except InputError as error:
            found.unreadable[path] = str(error)
            continue
        values = header.values
        if missing_size(header):
            _note_sizeless(header, found)
            continue
        subject = _subject(values, path, root, subject_from)
        series = values.get("series_digest") or ""
        first = _empty_group(subject, series, values)
        found.groups.setdefault((subject, series), first).files.append(path)
    return number, found


def _note_sizeless(header: Header, found: Found) -> None:
    if is_no_image(header):
        found.without_pixels += 1
        return
    series = header.values.get("series_digest") or ""
    found.sizeless[header.path] = Sizeless(series, lost_size(header), is_broken_image(header))


def _empty_group(subject: str, series: str, values: dict[str, Any]) -> Group:

    def digest(name: str) -> str:
        return values.get(f"{name}_digest") or ""

    return Group(
        subject=subject,
        series=series,
        number=values.get("series_number"),
        patient=digest("patient"),
        study=digest("study"),
        birth=digest("birth"),
        sex=digest("sex"),
    )


def _judge_sizeless(groups: Sequence[Group], found: Found) -> dict[str, str]:
    """Sorts what has no size: no image, or unreadable; the faults of series by their digest."""
    known, faults = {group.series for group in groups}, {}
    for path, one in found.sizeless.items():
        if not (one.broken or one.series in known):
            found.without_pixels += 1
            continue
        found.unreadable[path] = one.fault
        if one.series:
            faults.setdefault(one.series, one.fault)
    return faults


def _note_damage(groups: Sequence[Group], found: Found) -> None:
    """Notes of each group what is unreadable and one of its files, or beside them and maybe one."""
    of_series = _judge_sizeless(groups, found)
    by_folder: dict[Path, str] = {}
    for path, reason in found.unreadable.items():
        sizeless = found.sizeless.get(path)
        if not (sizeless and sizeless.series):
            by_folder.setdefault(path.parent, reason)
    for group in groups:
        folders = {path.parent for path in group.files}
        beside = min((by_folder[f] for f in folders if f in by_folder), default="")
        if fault := of_series.get(group.series, "") or beside:
            group.fault = f"beside its slices {fault}, or remove it"


def common_folder(group: Group) -> Path:
    """The folder that holds all files of a series."""
    return Path(os.path.commonpath([file.parent for file in group.files]))


def _note_splits(groups: Sequence[Group]) -> None:
    """Notes of groups whose series lies in other subjects too: each may be some slices of it."""
    by_series: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_series[group.series].append(group)
    by_series.pop("", None)
    for parts in (p for p in by_series.values() if len(p) > 1):
        for group in parts:
            group.fault = (
                f"{common_folder(group)}: its series lies in {len(parts)} subjects, so these "
                f"{len(group.files)} files may be a part of it, or a copy; mend what tells "
                "subjects apart (PatientID, folders), or give another --subject_from"
            )


def find_groups(root: Path, subject_from: str, workers: int) -> tuple[list[Group], Found]:
    """The series of a tree in the order of their names to come, and all that was found."""
    files, by_name = _files(root)
    starts = range(0, len(files), _FILES_AT_ONCE)
    parts = [(start, files[start : start + _FILES_AT_ONCE]) for start in starts]
    task = partial(_look, root=root, subject_from=subject_from)
    bar = tqdm(total=len(files), unit="file", desc="headers", disable=None, mininterval=1.0)
    looked: dict[int, Found] = {}
    with bar:
        for start, one in outcomes(task, parts, min(workers, max(len(parts), 1))):
            looked[start] = one
            bar.update(min(_FILES_AT_ONCE, len(files) - start))
    found = Found(by_name=by_name)
    for start in sorted(looked):
        found.add(looked[start])
    order = sorted(found.groups.values(), key=lambda g: (g.subject, g.number or 0, g.series))
    _note_damage(order, found)
    _note_splits(order)
    return order, found
