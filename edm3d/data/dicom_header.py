"""The few DICOM header fields that geometry and Hounsfield units need; nothing else is ever read.

A list of allowed tags is the guard of privacy: names, dates and institutions are stepped over, and
identifiers come out only as digests that tell equal from different. Every length is checked
against the file before it is believed. Source: DICOM PS3.5 (data sets, transfer syntaxes), PS3.6
(tags). Read next: `edm3d.data.dicom_frames` (what a header says of its slices).
"""

import hashlib
import io
import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from edm3d.data.dicom_tags import (
    BIG_ENDIAN,
    BYTES,
    DEFLATED,
    DIGEST,
    IMPLICIT,
    INTEGER,
    LABEL,
    NUMBERS,
    REAL,
    SEQUENCE,
    TAGS,
    TEXT,
)
from edm3d.errors import InputError

_META_SYNTAX = 0x00020010
_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN"}
_LONG_VRS |= {b"SV", b"UV"}
_MOST_BYTES = 2**12  # of one value that is kept
_MOST_DEPTH = 8
_MOST_INFLATED = 2**29
_MOST_ELEMENTS = 1_000_000  # an enhanced CT of 1000 frames has a tenth: some seconds to parse
_LARGEST_LABEL = 2**31 - 1  # of an integer string, PS3.5 6.2
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Header:
    """Allowed fields of one file by name, and where its pixels lie.

    `pixel_bytes` is None where they are encapsulated (compressed); then they reach to the file's
    end. `deflated_at` is where the deflated part of a file begins that has one; the place of its
    pixels, and its size, are then counted in what that part inflates to.
    """

    path: Path
    values: dict[str, Any]
    syntax: str
    pixel_offset: int
    pixel_bytes: int | None
    size: int
    deflated_at: int | None = None

    def open(self) -> BinaryIO:
        """The bytes in which `pixel_offset` counts; a deflated file is inflated anew each time.

        A series would not fit in memory if each of its headers kept what it was inflated to.
        """
        if self.deflated_at is None:
            return open(self.path, "rb")
        with open(self.path, "rb") as file:
            file.seek(self.deflated_at)
            return io.BytesIO(_inflated(file))


class _Damaged(Exception):
    """A data set that contradicts itself; says where in the file."""


@dataclass
class _Stream:
    file: BinaryIO
    size: int
    explicit: bool
    order: str  # "<" or ">"
    left: int = _MOST_ELEMENTS

    def take(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise _Damaged(f"it breaks off at byte {self.size}")
        return data

    def numbers(self, code: str) -> tuple[int, ...]:
        return struct.unpack(self.order + code, self.take(struct.calcsize("<" + code)))

    def skip(self, count: int) -> None:
        self.check(count)
        self.file.seek(count, io.SEEK_CUR)

    def check(self, count: int) -> None:
        place = self.file.tell()
        if place + count > self.size:
            raise _Damaged(f"at byte {place} it claims {count} bytes more and has {self.size}")

    def element(self) -> tuple[int, bytes, int]:
        """Tag, VR (empty where it is implicit) and length of the next element."""
        self.left -= 1
        if self.left < 0:
            raise _Damaged(f"its header has over {_MOST_ELEMENTS} elements")
        group, element = self.numbers("HH")
        tag = group << 16 | element
        if group == 0xFFFE or not self.explicit:
            return tag, b"", self.numbers("I")[0]
        vr = self.take(2)
        if not (vr.isalpha() and vr.isupper()):
            raise _Damaged(f"no data element begins at byte {self.file.tell() - 6}")
        if vr in _LONG_VRS:
            return tag, vr, self.numbers("HI")[1]
        return tag, vr, self.numbers("H")[0]


def _texts(data: bytes) -> list[str]:
    text = data.decode("latin-1").rstrip("\0 ")
    return [part.strip("\0 ") for part in text.split("\\")] if text else []


def _label(data: bytes) -> int | None:
    first = "".join(_texts(data)[:1])
    number = float(first) if _NUMBER.fullmatch(first) else math.nan
    whole = abs(number) <= _LARGEST_LABEL and number == int(number)
    return int(number) if whole else None


def _decoded(name: str, kind: int, data: bytes, order: str):
    """A kept value: texts, floats, an int, a float, bytes or a digest; None where it is empty."""
    if kind == DIGEST:
        identity = data.strip(b"\0 ")
        return hashlib.sha256(identity).hexdigest() if identity else None
    if kind == TEXT:
        return _texts(data) or None
    if kind == LABEL:
        return _label(data)
    if kind == NUMBERS:
        parts = _texts(data)
        if not all(_NUMBER.fullmatch(part) for part in parts):
            raise _Damaged(f"its {name} is no number")
        numbers = [float(part) for part in parts]
        if not all(map(math.isfinite, numbers)):
            raise _Damaged(f"its {name} is too large")
        return numbers or None
    if kind == BYTES or not data:
        return data or None
    code = {INTEGER: {2: "H", 4: "I"}, REAL: {4: "f", 8: "d"}}[kind].get(len(data))
    if code is None:
        raise _Damaged(f"its {name} has {len(data)} bytes")
    return struct.unpack(order + code, data)[0]


def _items(stream: _Stream, length: int, depth: int) -> list[dict[str, Any]]:
    """The items of a sequence whose length is read already."""
    if depth > _MOST_DEPTH:
        raise _Damaged(f"its sequences are nested over {_MOST_DEPTH} deep")
    if length != _UNDEFINED:
        stream.check(length)
    end = stream.size if length == _UNDEFINED else stream.file.tell() + length
    items = []
    while stream.file.tell() < end:
        tag, _, size = stream.element()
        if tag == _SEQUENCE_END and length == _UNDEFINED:
            return items
        if tag != _ITEM:
            raise _Damaged(f"no item begins at byte {stream.file.tell() - 8}")
        items.append(_data_set(stream, size, depth)[0])
    if length == _UNDEFINED:
        raise _Damaged(f"it breaks off at byte {stream.size}")
    return items


def _sequence(stream: _Stream, vr: bytes, length: int, depth: int) -> list[dict[str, Any]]:
    if vr != b"UN":
        return _items(stream, length, depth + 1)
    inner = replace(stream, explicit=False, order="<")  # PS3.5 6.2.2: UN hides implicit VR
    items = _items(inner, length, depth + 1)
    stream.left = inner.left
    return items


def _data_set(stream: _Stream, length: int, depth: int = 0) -> tuple[dict[str, Any], int | None]:
    """The kept values up to `length`, an item's end, or the pixels; then the pixels' length."""
    if length != _UNDEFINED:
        stream.check(length)
    end = stream.size if length == _UNDEFINED else stream.file.tell() + length
    values: dict[str, Any] = {}
    while stream.file.tell() < end:
        tag, vr, size = stream.element()
        if tag == _ITEM_END and length == _UNDEFINED and depth:
            return values, None
        if tag == _PIXEL_DATA and depth == 0:
            return values, size
        name, kind = TAGS.get(tag, ("", TEXT))
        if name in values:
            raise _Damaged(f"it gives its {name} twice")
        if size == _UNDEFINED or kind == SEQUENCE:
            items = _sequence(stream, vr, size, depth)
            values |= {name: items} if kind == SEQUENCE else {}
        elif not name or size > _MOST_BYTES:
            stream.skip(size)
        else:
            stream.check(size)
            values[name] = _decoded(name, kind, stream.take(size), stream.order)
    return values, None


def _transfer_syntax(stream: _Stream) -> str:
    """Reads the group of file meta information, which is always explicit little endian."""
    syntax = ""
    while True:
        place = stream.file.tell()
        group = stream.take(2)
        stream.file.seek(place)
        if group != b"\x02\0":
            return syntax
        tag, _, size = stream.element()
        stream.check(size)
        if tag == _META_SYNTAX and size <= _MOST_BYTES:
            syntax = "".join(_texts(stream.take(size))[:1])
        else:
            stream.skip(size)


def _inflated(file: BinaryIO) -> bytes:
    packed = zlib.decompressobj(-zlib.MAX_WBITS)
    data = packed.decompress(file.read(), _MOST_INFLATED)
    if not packed.eof:
        raise _Damaged(f"its deflated part breaks off or exceeds {_MOST_INFLATED} bytes")
    return data


def _parse(path: Path) -> Header:
    if path.exists() and not path.is_file():  # a pipe would never end
        raise _Damaged("it is no plain file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(132)[128:] != b"DICM":
            raise _Damaged("it has no DICM mark")
        syntax, deflated_at = _transfer_syntax(_Stream(file, size, True, "<")), None
        if not re.fullmatch(r"1\.2\.840\.10008\.1\.2[0-9.]{0,16}", syntax):
            raise _Damaged("it names no transfer syntax of DICOM")
        body: BinaryIO = file
        if syntax == DEFLATED:
            deflated_at, inflated = file.tell(), _inflated(file)
            body, size = io.BytesIO(inflated), len(inflated)
        order = ">" if syntax == BIG_ENDIAN else "<"
        values, length = _data_set(_Stream(body, size, syntax != IMPLICIT, order), _UNDEFINED)
        pixels = None if length == _UNDEFINED else length or 0
        return Header(path, values, syntax, body.tell(), pixels, size, deflated_at)


def is_dicom_file(path: Path) -> bool:
    """Whether the file carries the mark of DICOM after its preamble."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(path: Path) -> Header:
    """The header of one file; raises `InputError` naming the file and the byte of a fault."""
    try:
        return _parse(path)
    except (_Damaged, OSError, zlib.error) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} is no readable DICOM ({what}); copy the file again") from error
