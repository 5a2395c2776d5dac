"""DICOM series to volumes: which series a folder holds, whether its slices make one, and its HU.

Slices are sorted by their position along their common normal, never by name or number. A series
that is not one complete, straight, evenly spaced stack at one time is refused with the place of
the fault. Errors name paths and numbers only. Read next: `edm3d.data.dicom_header` (what is read
at all), `edm3d.data.dicom_frames` (what is refused slice by slice).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm3d.data.dicom_frames import Frame, count_frames, padding_of
from edm3d.data.dicom_header import Header, is_dicom_file, read_header
from edm3d.data.dicom_kind import is_broken_image, is_no_image, lost_size, missing_size
from edm3d.data.dicom_pixels import significant, stored_frames
from edm3d.data.dicom_stack import Stack, counted, stack
from edm3d.data.geometry import (
    AIR_HU,
    Grid,
    Volume,
    as_stored,
    lps_turn,
)
from edm3d.errors import InputError

__all__ = [
    "Series",
    "find_series",
    "is_dicom_file",
    "read_posture",
    "read_series",
    "read_series_grid",
]

MOST_FILES = 20_000
_COMPANIONS = {".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".html", ".pdf", ".log", ".ini"}
_COMPANIONS |= {".jpg", ".jpeg", ".png", ".gif", ".db", ".nii", ".gz", ".zip", ".exe", ".inf"}
_SHOWN = 6
# Of (0018,5100) what follows the two letters of the end or side that enters first: HFS, FFDR, AFP.
_POSTURES = {"S": "supine", "P": "prone", "DR": "right decubitus", "DL": "left decubitus"}
_FIRST_IN = ("HF", "FF", "LF", "RF", "AF", "PF")


@dataclass(frozen=True, eq=False)
class Series:
    """The image files of one DICOM series; `key` tells series apart and says nothing of people."""

    key: str
    number: int | None
    headers: tuple[Header, ...]

    @property
    def facts(self) -> str:
        """What an error may say of the series to let its user recognise it."""
        values = self.headers[0].values
        spacing = values.get("pixel_spacing") or []
        size = f"{values.get('rows')} x {values.get('columns')} pixels"
        if len(spacing) == 2:
            size += f" of {spacing[0]:g} x {spacing[1]:g} mm"
        slices = counted(sum(count_frames(header) for header in self.headers), "slice")
        number = "no number" if self.number is None else f"number {self.number}"
        return f"{number}, key {self.key} ({slices}, {size})"


def image_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder, itself only; raises `InputError` for a file that is damaged.

    A DICOMDIR is passed over, and so are hidden files and companions such as .txt or .png that lack
    the mark of DICOM.
    """
    files = [p for p in sorted(folder.iterdir()) if not (p.is_dir() or is_companion(p))]
    if not files:
        raise InputError(f"folder {folder} holds no DICOM files itself; name the series' folder")
    if len(files) > MOST_FILES:
        raise InputError(f"folder {folder} holds {len(files)} files; at most {MOST_FILES} are read")
    return files


def is_companion(path: Path) -> bool:
    """Whether a file beside DICOM images may be passed over: by its name, unless it is DICOM.

    Slices have been exported as .jpg; one that cannot be opened is left to whoever reads it.
    """
    name = path.name.upper()
    if name == "DICOMDIR":
        return True
    bare = name in ("README", "LICENSE", "LICENCE", "VERSION")
    if not (name.startswith(".") or bare or path.suffix.lower() in _COMPANIONS):
        return False
    try:
        return not (path.is_file() and is_dicom_file(path))
    except OSError:
        return False


def group_series(headers: Iterable[Header]) -> list[Series]:
    """The series among files, in the order of their numbers; what is no image is passed over.

    Raises `InputError` for an image that has lost its size.
    """
    groups: dict[str, list[Header]] = defaultdict(list)
    sizeless: list[Header] = []
    for header in headers:
        if not missing_size(header):
            groups[_series_of(header)].append(header)
        elif not is_no_image(header):
            sizeless.append(header)
    for header in sizeless:
        if is_broken_image(header) or _series_of(header) in groups:
            raise InputError(lost_size(header))
    found = []
    for digest, members in groups.items():
        number = members[0].values.get("series_number")
        found.append(Series(digest[:8], number, tuple(members)))
    return sorted(found, key=lambda s: (s.number is None, s.number or 0, s.key))


def _series_of(header: Header) -> str:
    return header.values.get("series_digest") or "0" * 8


def find_series(path: str | Path) -> list[Series]:
    """The series of images in a folder of DICOM or in one file."""
    path = Path(path)
    files = image_files(path) if path.is_dir() else [path]
    return group_series(read_header(file) for file in files)


def _listed(series: Sequence[Series]) -> str:
    more = f"; and {len(series) - _SHOWN} more" if len(series) > _SHOWN else ""
    return "; ".join(one.facts for one in series[:_SHOWN]) + more


def pick_series(path: Path, asked: str | None) -> Series:
    """The one series of a path, or the one asked for by its number or its key."""
    found = find_series(path)
    if not found:
        raise InputError(f"{path} holds no DICOM image; name the folder of a CT series")
    if asked is None and len(found) == 1:
        return found[0]
    if asked is None:
        raise InputError(
            f"{path} holds {len(found)} series: {_listed(found)}; ask for one by number or key "
            "(column series of the manifest)"
        )
    fits = [one for one in found if asked in (one.key, str(one.number))]
    if len(fits) != 1:
        raise InputError(
            f"{path} has {len(fits)} series {asked!r} among {len(found)}: {_listed(found)}; ask "
            "for one by its key"
        )
    return fits[0]


def hounsfield(frame: Frame, words: np.ndarray) -> np.ndarray:
    """float32 HU `[row, column]` of a slice's stored words; air where they mean "not measured"."""
    values = significant(words, frame.header)
    kind = np.float32 if values.dtype.itemsize <= 2 else np.float64
    hu = (values.astype(kind) * kind(frame.slope) + kind(frame.intercept)).astype(np.float32)
    padding = padding_of(frame.header)
    if padding is not None:
        hu[(words >= padding[0]) & (words <= padding[1])] = AIR_HU
    return hu


def _fill(stacked: Stack, values_xyz: np.ndarray) -> None:
    """Puts the HU of every slice to its place `[column, row, slice]`; each file is read once."""
    places: dict[Path, dict[int, tuple[int, Frame]]] = defaultdict(dict)
    for place, frame in enumerate(stacked.frames):
        places[frame.header.path][frame.index] = place, frame
    for members in places.values():
        for index, words in enumerate(stored_frames(members[0][1].header)):
            place, frame = members[index]
            values_xyz[:, :, place] = hounsfield(frame, words).T


def volume_of(series: Series, name: str) -> Volume:
    """The HU of a series as `[z, y, x]` in LPS order."""
    stacked = stack(series.headers, name)
    grid, turn = lps_turn(stacked.shape_xyz, stacked.affine_lps)
    values = np.empty(grid.shape_zyx, np.float32)
    _fill(stacked, as_stored(values, turn))
    return Volume(values, grid)


def posture(headers: Sequence[Header]) -> str | None:
    """`supine`, `prone`, `left decubitus` or `right decubitus`; None where all headers are silent.

    Slices that contradict each other make no `stack`. Source: DICOM PS3.3, C.7.3.1.1.2 (patient
    position).
    """
    codes = ("".join(header.values.get("patient_position") or []) for header in headers)
    code = next(filter(None, codes), "")
    return _POSTURES.get(code[2:]) if code[:2] in _FIRST_IN else None


def read_posture(path: Path, asked: str | None = None) -> str | None:
    """How the subject of the series at a path lay, see `posture`."""
    return posture(pick_series(path, asked).headers)


def read_series(path: Path, asked: str | None = None) -> Volume:
    """The HU of the DICOM series at a path, see `edm3d.data.volumes.read_ct`."""
    return volume_of(pick_series(path, asked), str(path))


def read_series_grid(path: Path, asked: str | None = None) -> Grid:
    """The grid in LPS order, from headers alone."""
    stacked = stack(pick_series(path, asked).headers, str(path))
    return lps_turn(stacked.shape_xyz, stacked.affine_lps)[0]
