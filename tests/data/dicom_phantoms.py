"""Writes small DICOM series for the tests, in any native syntax, with any field changed."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edm3d.data.volumes import read_ct
from edm3d.errors import InputError
from tests.data.phantoms import chest

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
SPACING, ORIENTATION, POSITION, NUMBER = 0x00280030, 0x00200037, 0x00200032, 0x00200011
INTERCEPT, SLOPE, UID, TYPE = 0x00281052, 0x00281053, 0x0020000E, 0x00080008
SERIES_UID = "1.2.826.0.1.3680043.8.1"
SHAPE = (12, 11, 13)  # z, y, x
SPACING_ZYX = (3.0, 2.0, 1.5)

Fields = dict[int, tuple[str, object]]  # tag: VR, value


def _bytes_of(vr: str, value: object, syntax: str) -> bytes:
    order = ">" if syntax == BIG_ENDIAN else "<"
    if isinstance(value, bytes):
        return value
    if vr == "SQ":
        items = [data_set(item, syntax) for item in value]  # pyright: ignore
        return b"".join(struct.pack(order + "HHI", 0xFFFE, 0xE000, len(i)) + i for i in items)
    numbers = value if isinstance(value, list | tuple) else [value]
    code = {"US": "H", "SS": "h", "UL": "I", "FD": "d"}.get(vr)
    if code:
        return b"".join(struct.pack(order + code, n) for n in numbers)
    data = "\\".join(str(n) for n in numbers).encode()
    return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)


def data_set(fields: Fields, syntax: str) -> bytes:
    """The encoded fields in the order of their tags."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    out = b""
    for tag, (vr, value) in sorted(fields.items()):
        data = _bytes_of(vr, value, syntax)
        out += struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if syntax == IMPLICIT:
            out += struct.pack("<I", len(data))
        elif vr in ("OB", "OW", "SQ", "UN"):
            out += vr.encode() + struct.pack(order + "HI", 0, len(data))
        else:
            out += vr.encode() + struct.pack(order + "H", len(data))
        out += data
    return out


def write_file(path: Path, fields: Fields, syntax: str = EXPLICIT) -> Path:
    """A DICOM file of the fields, with its meta information."""
    meta = data_set({0x00020010: ("UI", syntax)}, EXPLICIT)
    group = data_set({0x00020000: ("UL", len(meta))}, EXPLICIT)
    path.write_bytes(bytes(128) + b"DICM" + group + meta + data_set(fields, syntax))
    return path


def image_fields(words: np.ndarray) -> Fields:
    """What describes the pixels `[row, column]` or `[frame, row, column]`, int16 or uint16."""
    signed = int(words.dtype.kind == "i")
    return {
        0x00280002: ("US", 1),
        0x00280004: ("CS", "MONOCHROME2"),
        0x00280010: ("US", words.shape[-2]),
        0x00280011: ("US", words.shape[-1]),
        0x00280100: ("US", 16),
        0x00280101: ("US", 16),
        0x00280102: ("US", 15),
        0x00280103: ("US", signed),
        0x7FE00010: ("OW", words.tobytes()),
    }


def slice_fields(hu: np.ndarray, z_mm: float, number: int, **more) -> Fields:
    """One axial CT slice of HU `[y, x]`, stored unsigned with intercept -1024."""
    words = (hu.astype(int) + 1024).astype("<u2")
    return image_fields(words) | {
        0x00080008: ("CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        0x00080016: ("UI", CT),
        0x00080060: ("CS", "CT"),
        0x00100020: ("LO", "subject 1"),
        0x00185100: ("CS", "HFS"),
        0x0020000D: ("UI", SERIES_UID + ".1"),
        0x0020000E: ("UI", SERIES_UID),
        0x00200011: ("IS", 4),
        0x00200013: ("IS", number),
        0x00200032: ("DS", [-30, -20, z_mm]),
        0x00200037: ("DS", [1, 0, 0, 0, 1, 0]),
        0x00280030: ("DS", [SPACING_ZYX[1], SPACING_ZYX[2]]),
        0x00281052: ("DS", -1024),
        0x00281053: ("DS", 1),
    }


Change = Callable[[int, Fields], Fields | None]  # slice number, fields; None leaves it out


def write_series(
    folder: Path,
    hu: np.ndarray | None = None,
    change: Change = lambda _, fields: fields,
    *,
    syntax: str = EXPLICIT,
    names: Callable[[int], str] = "{:03d}.dcm".format,
) -> np.ndarray:
    """A series of slices from bottom to top, each changed by `change`; returns its HU."""
    folder.mkdir(parents=True, exist_ok=True)
    hu = chest(SHAPE) if hu is None else hu
    for z, plane in enumerate(hu):
        fields = change(z, slice_fields(plane, 100 + SPACING_ZYX[0] * z, z + 1))
        if fields is not None:
            write_file(folder / names(z), fields, syntax)
    return hu


def enhanced_fields(hu: np.ndarray, **per_frame: Callable[[int], Fields]) -> Fields:
    """An enhanced CT of HU `[z, y, x]`; `per_frame` adds functional groups of each frame."""
    words = (hu.astype(int) + 1024).astype("<u2")
    own = []
    for z in range(len(hu)):
        place = {0x00200032: ("DS", [-30, -20, 100 + SPACING_ZYX[0] * z])}
        groups: Fields = {0x00209113: ("SQ", [place])}
        for more in per_frame.values():
            groups |= more(z)
        own.append(groups)
    spacing = {0x00280030: ("DS", [SPACING_ZYX[1], SPACING_ZYX[2]])}
    values = {0x00281052: ("DS", -1024), 0x00281053: ("DS", 1), 0x00281054: ("LO", "HU")}
    shared: Fields = {
        0x00209116: ("SQ", [{0x00200037: ("DS", [1, 0, 0, 0, 1, 0])}]),
        0x00289110: ("SQ", [spacing]),
        0x00289145: ("SQ", [values]),
    }
    return image_fields(words) | {
        0x00080008: ("CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        0x00080016: ("UI", ENHANCED_CT),
        0x00080060: ("CS", "CT"),
        0x0020000E: ("UI", SERIES_UID),
        0x00280008: ("IS", len(hu)),
        0x52009229: ("SQ", [shared]),
        0x52009230: ("SQ", own),
    }


def refusal(path, **options) -> str:
    """The one line of the refusal, which names the path."""
    with pytest.raises(InputError) as caught:
        read_ct(path, **options)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and SERIES_UID not in text
    return text
