"""One series becomes one file of HU, once: what a killed import has finished is found again.

    series/KEY/volume.nii.gz, note.json   a finished series; the folder is renamed here as a whole
    building/                             what a process has not finished

KEY is a digest of the paths, sizes and times of the series' files, so a changed file makes another
series of it. A note says nothing of whose the series is.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edm3d
from data_prep.dicom_import.tree import Group, common_folder
from edm3d.data.dicom import Series, posture, volume_of
from edm3d.data.dicom_frames import count_frames
from edm3d.data.dicom_header import read_header
from edm3d.data.shard_file import sha256_of
from edm3d.data.volumes import AIR_HU, check_hu, write_nifti
from edm3d.errors import InputError

SERIES, BUILDING, VOLUME, NOTE = "series", "building", "volume.nii.gz", "note.json"


@dataclass(frozen=True)
class Facts:
    """What is told of an imported series; `folder` is relative to the root."""

    position: str
    series_number: int | None
    slices: int
    spacing_zyx_mm: tuple[float, float, float]
    folder: str


@dataclass(frozen=True)
class Converted:
    """A finished series: where its file waits, relative to the import's folder, and its facts."""

    source: str
    facts: Facts


@dataclass(frozen=True)
class Refused:
    """A series, or a file that belongs to none, that was not imported."""

    folder: str
    series_number: int | None
    files: int
    reason: str


def printable(text: str) -> str:
    """Text in one line that any table or terminal takes, whatever a file's name is made of.

    Line ends, control characters and bytes that are no text are written as escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def relative(path: Path, root: Path) -> str:
    """`./FOLDER` below the root: a spreadsheet takes no name that begins so for a formula."""
    return printable(f"./{path.relative_to(root).as_posix()}")


def _key(group: Group, root: Path) -> str:
    """A digest of all that decides the file that a series becomes, and its note."""
    try:
        stats = [(os.path.abspath(file), file.stat()) for file in group.files]
    except OSError as error:
        raise InputError(f"{error.filename} is gone ({error.strerror}); import again") from error
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    content = json.dumps([edm3d.__version__, os.path.abspath(root), files])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _finished(place: Path) -> Facts | None:
    """The facts of a series that is finished and whose file is whole."""
    try:
        note: dict[str, Any] = json.loads((place / NOTE).read_text(encoding="utf-8"))
        if sha256_of(place / VOLUME) != note.pop("sha256"):
            return None
        z, y, x = note.pop("spacing_zyx_mm")
        return Facts(spacing_zyx_mm=(z, y, x), **note)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(group: Group, path: Path, root: Path) -> Facts:
    """Writes the HU of a series; holds one and a half times its float32 values at most."""
    headers = tuple(read_header(file) for file in group.files)
    folder = common_folder(group)
    volume = volume_of(Series("", group.number, headers), str(folder))
    check_hu(volume, str(folder))
    grid, values = volume.grid, volume.values
    np.rint(np.maximum(values, np.float32(AIR_HU), out=values), out=values)
    hu = values.astype(np.int16)
    del volume, values  # the larger array: gone before the file is packed
    write_nifti(path, hu, grid)
    return Facts(
        position=posture(headers) or "",
        series_number=group.number,
        slices=sum(map(count_frames, headers)),
        spacing_zyx_mm=grid.spacing_zyx_mm,
        folder=relative(folder, root),
    )


def _build(group: Group, place: Path, root: Path, building: Path) -> Facts:
    own = Path(tempfile.mkdtemp(dir=building))
    try:
        facts = _write(group, own / VOLUME, root)
        if _key(group, root) != place.name:
            raise InputError(f"files of {common_folder(group)} changed while read; import again")
        note = asdict(facts) | {"sha256": sha256_of(own / VOLUME)}
        (own / NOTE).write_text(json.dumps(note), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)  # a torn one, if any
        own.chmod(0o755)
        os.replace(own, place)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return facts


def convert(
    numbered: tuple[int, Group], root: Path, folder: Path
) -> tuple[int, Converted | Refused]:
    """The series as a file below `folder`, written unless it is there; or why it is none."""
    number, group = numbered
    try:
        if group.fault:
            raise InputError(group.fault)
        place = folder / SERIES / _key(group, root)
        facts = _finished(place) or _build(group, place, root, folder / BUILDING)
        return number, Converted(f"{SERIES}/{place.name}/{VOLUME}", facts)
    except InputError as error:
        fields = relative(common_folder(group), root), group.number, len(group.files)
        return number, Refused(*fields, printable(str(error)))
