"""Turns a tree of DICOM into one NIfTI per good CT series and a table of scans to fill in.

    python data_prep/import_dicom.py --root /data/dicom --out data/imported

`--out` gets PIG_SCAN.nii.gz (int16 HU), `scans.csv` (the manifest with what headers tell; fill in
the empty cells), `sources.csv` (which folder became which scan) and `refused.csv` (every series and
file that was not taken, and why). Subjects get new names, in the order of a digest that is stored
nowhere; no name, date or identifier of a header is written. `sources.csv` and `refused.csv` name
folders of `--root`: keep them with the DICOM where those folders are named after people. `--out`
must be new or empty, and appears when it is complete. Exit code 2 when nothing was imported.
"""

import csv
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.whole_folder import folder_made_whole
from edm3d import command
from edm3d.data.dicom import Series, is_companion, posture, volume_of
from edm3d.data.dicom_frames import count_frames
from edm3d.data.dicom_header import read_header
from edm3d.data.manifest import REQUIRED
from edm3d.data.volumes import AIR_HU, check_hu, write_nifti
from edm3d.errors import InputError


def define_flags() -> None:
    flags.DEFINE_string("root", None, "The tree of DICOM files.", required=True)
    flags.DEFINE_string("out", None, "Folder to make; must not exist, or be empty.", required=True)
    flags.DEFINE_bool("json", False, "Print what was imported and refused as JSON.")


@dataclass
class _Group:
    """The files of one series, and the digests of whose it is."""

    subject: str
    number: int | None
    files: list[Path] = field(default_factory=list)


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
class Refused:
    """A series, or a file that belongs to none, that was not imported."""

    folder: str
    series_number: int | None
    files: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    imported: list[Imported]
    refused: list[Refused]
    without_pixels: int


def _unreadable_folder(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed ({error.strerror}); mend that") from error


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, onerror=_unreadable_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(names)):
            if not is_companion(path):
                yield path


def _printable(text: str) -> str:
    """Text that any table or terminal takes, whatever bytes a file's name is made of."""
    return text.encode("utf-8", "backslashreplace").decode()


def _relative(path: Path, root: Path) -> str:
    """`./FOLDER` below the root: a spreadsheet takes no name that begins so for a formula."""
    return _printable(f"./{path.relative_to(root).as_posix()}")


def find_groups(root: Path) -> tuple[list[_Group], dict[Path, str], int]:
    """The series of a tree, the reason for every file that is unreadable, and a count of objects
    without pixels (reports, structures), which are passed over."""
    groups: dict[str, _Group] = {}
    unreadable: dict[Path, str] = {}
    without_pixels = 0
    for path in _files(root):
        try:
            values = read_header(path).values
        except InputError as error:
            unreadable[path] = str(error)
            continue
        if not values.get("rows"):
            without_pixels += 1
            continue
        number, series = values.get("series_number"), values.get("series_digest") or ""
        subject = values.get("patient_digest") or values.get("study_digest") or series
        first = _Group(subject, int(number[0]) if number else None)
        groups.setdefault(series, first).files.append(path)
    order = sorted(groups.items(), key=lambda g: (g[1].subject, g[1].number or 0, g[0]))
    return [group for _, group in order], unreadable, without_pixels


def _refuse_beside_damage(group: _Group, unreadable: dict[Path, str]) -> None:
    """Raises `InputError` where a file of this series may be among the unreadable ones."""
    folders = {path.parent for path in group.files}
    beside = [reason for path, reason in unreadable.items() if path.parent in folders]
    if beside:
        raise InputError(f"beside its slices {beside[0]}, or remove it")


def _write(group: _Group, path: Path, root: Path) -> Imported:
    """Writes the HU of a series; its subject is still a digest and its scan unnamed."""
    headers = tuple(read_header(file) for file in group.files)
    folder = Path(os.path.commonpath([file.parent for file in group.files]))
    volume = volume_of(Series("", group.number, headers), str(folder))
    check_hu(volume, str(folder))
    hu = np.rint(np.maximum(volume.values, np.float32(AIR_HU))).astype(np.int16)
    write_nifti(path, hu, volume.grid)
    return Imported(
        subject=group.subject,
        scan="",
        position=posture(headers[0]) or "",
        series_number=group.number,
        slices=sum(map(count_frames, headers)),
        spacing_zyx_mm=volume.grid.spacing_zyx_mm,
        folder=_relative(folder, root),
        ct=path.name,
    )


def _named(written: Sequence[Imported], folder: Path) -> list[Imported]:
    """The scans with neutral names, their files renamed to match."""
    by_subject: dict[str, list[Imported]] = defaultdict(list)
    for one in written:
        by_subject[one.subject].append(one)
    named = []
    for index, subject in enumerate(sorted(by_subject), start=1):
        for number, one in enumerate(by_subject[subject], start=1):
            name, scan = f"pig{index:03d}", f"s{number:02d}"
            (folder / one.ct).rename(folder / f"{name}_{scan}.nii.gz")
            fields = {"subject": name, "scan": scan, "ct": f"{name}_{scan}.nii.gz"}
            named.append(replace(one, **fields))
    return named


def import_tree(root: Path, folder: Path) -> Outcome:
    """Imports every good series of `root` into an existing, empty folder."""
    groups, unreadable, without_pixels = find_groups(root)
    written = []
    refused = [
        Refused(_relative(p, root), None, 1, _printable(why)) for p, why in unreadable.items()
    ]
    for index, group in enumerate(tqdm(groups, unit="series", desc="import", disable=None)):
        try:
            _refuse_beside_damage(group, unreadable)
            written.append(_write(group, folder / f"part{index:06d}.nii.gz", root))
        except InputError as error:
            place = Path(os.path.commonpath([file.parent for file in group.files]))
            fields = _relative(place, root), group.number, len(group.files)
            refused.append(Refused(*fields, _printable(str(error))))
    return Outcome(_named(written, folder), refused, without_pixels)


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


def show(outcome: Outcome, out: Path) -> None:
    """Prints what was imported and what was not."""
    for one in outcome.refused:
        print(f"refused: {one.reason}")
    if outcome.without_pixels:
        print(f"passed over: {outcome.without_pixels} objects without pixels")
    subjects = len({one.subject for one in outcome.imported})
    print(
        f"{out}: {len(outcome.imported)} scans of {subjects} subjects, {len(outcome.refused)} "
        "refused; fill in the empty cells of scans.csv"
    )


def main(argv: list[str]) -> None:
    del argv
    root, out = Path(flags.FLAGS.root), Path(flags.FLAGS.out)
    if not root.is_dir():
        raise InputError(f"--root is {root}, which is no folder; name a tree of DICOM")
    with folder_made_whole(out) as folder:
        outcome = import_tree(root, folder)
        if flags.FLAGS.json:
            print(json.dumps(asdict(outcome), indent=1))
        if not outcome.imported:
            reasons = [one.reason for one in outcome.refused]
            nothing = f"nothing of {root} was imported ({len(reasons)} refused); give CT series"
            raise InputError("\n".join([*reasons, nothing]))
        write_tables(outcome, folder)
    if not flags.FLAGS.json:
        show(outcome, out)


if __name__ == "__main__":
    define_flags()
    command.run(main)
