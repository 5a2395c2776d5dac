"""The stored pixel values of a DICOM file, native or compressed.

Compressed frames go to GDCM (through SimpleITK) in a small file that holds the code stream and the
format of its pixels, and nothing else of the header: GDCM applies no rescaling of its own, and
sees no one's name. Source: DICOM PS3.5, 8 and annex A. Read next: `edm3d.data.dicom`.
"""

import contextlib
import math
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edm3d.data.dicom_frames import count_frames
from edm3d.data.dicom_header import Header
from edm3d.data.dicom_tags import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT
from edm3d.errors import InputError

_NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
_RLE, _JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
_COMPRESSED = {
    "1.2.840.10008.1.2.4.57",  # JPEG lossless, process 14
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    _JPEG_2000,
    _RLE,
}
_LOSSY = {  # films only: they tell no HU
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
}
_MAX_RLE_RATIO = 64  # two bytes stand for 128 at most
_SECONDARY_CAPTURE = b"1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grey words: no rescaling
_FRAME_HEADERS = {*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), 0xF7}


def load_simpleitk():
    """SimpleITK, or an `InputError` that says how to install it."""
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise InputError(
            "SimpleITK is not installed, which decodes compressed DICOM; pip install SimpleITK"
        ) from error
    return sitk


@contextlib.contextmanager
def quiet_library() -> Iterator[None]:
    """Keeps the decoders from printing beside the error that they raise as well."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _damaged(header: Header, fault: str) -> InputError:
    return InputError(f"{header.path} {fault}; copy the file again")


def stored_frames(header: Header, *, lossy: bool = False) -> Iterator[np.ndarray]:
    """The words `[row, column]` of each frame in the order of the file, in their own type.

    Native frames are read one by one, a compressed file is decoded as a whole. Bits beyond those
    stored are still in them: `significant` clears them. Coding with loss is refused by default.
    """
    if header.syntax in _NATIVE and header.pixel_bytes is not None:
        yield from _native(header)
        return
    known = _COMPRESSED | _LOSSY if lossy else _COMPRESSED
    if header.syntax not in known or header.pixel_bytes is not None:
        raise InputError(
            f"{header.path} has transfer syntax {header.syntax}, which is not read; decompress it "
            "without loss first (gdcmconv --raw)"
        )
    yield from _decompressed(header)


def _shape(header: Header) -> tuple[int, int, int]:
    return count_frames(header), header.values["rows"], header.values["columns"]


def _dtype(header: Header) -> np.dtype:
    order = ">" if header.syntax == BIG_ENDIAN else "<"
    sign = "i" if header.values["pixel_representation"] else "u"
    return np.dtype(f"{order}{sign}{header.values['bits_allocated'] // 8}")


def _native(header: Header) -> Iterator[np.ndarray]:
    dtype, (frames, *shape) = _dtype(header), _shape(header)
    with header.open() as file:
        file.seek(header.pixel_offset)
        for _ in range(frames):
            data = file.read(math.prod(shape) * dtype.itemsize)
            yield np.frombuffer(data, dtype).reshape(shape)


def significant(words: np.ndarray, header: Header) -> np.ndarray:
    """The stored values: `bits_stored` bits up to `high_bit`, with their sign."""
    bits, stored = words.dtype.itemsize * 8, header.values["bits_stored"]
    if stored == bits:
        return words
    native = words.astype(words.dtype.newbyteorder("="))
    return (native << (bits - 1 - header.values["high_bit"])) >> (bits - stored)


def _fragments(header: Header) -> list[bytes]:
    """The fragments of encapsulated pixels, without the table of offsets before them."""
    found: list[bytes] = []
    with header.open() as file:
        file.seek(header.pixel_offset)
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise _damaged(header, f"breaks off after {len(found)} pieces of its pixels")
            group, element, length = struct.unpack("<HHI", head)
            if (group, element) == (0xFFFE, 0xE0DD):
                return found[1:]
            if (group, element) != (0xFFFE, 0xE000) or length > header.size - file.tell():
                raise _damaged(header, f"has a broken piece of pixels at byte {file.tell() - 8}")
            found.append(file.read(length))


def _stated_shape(code: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 code stream states."""
    if code[:4] == b"\xff\x4f\xff\x51" and len(code) >= 42:
        width, height, left, top = struct.unpack(">4I", code[8:24])
        return height - top, width - left, int.from_bytes(code[40:42], "big")
    place = 2
    while code[:2] == b"\xff\xd8" and place + 10 <= len(code) and code[place] == 0xFF:
        marker, length = code[place + 1], int.from_bytes(code[place + 2 : place + 4], "big")
        if marker in _FRAME_HEADERS:
            rows, columns, components = struct.unpack(">HHB", code[place + 5 : place + 10])
            return rows, columns, components
        place += 2 + length
    return None


def _check_codes(header: Header, fragments: list[bytes]) -> None:
    """Raises `InputError` where a code stream would unpack to another shape than the header's."""
    frames, rows, columns = _shape(header)
    if len(fragments) < frames:
        raise _damaged(header, f"claims {frames} frames and holds {len(fragments)} pieces")
    if header.syntax == _RLE:
        _check_run_lengths(header, fragments)
        return
    begins = [f for f in fragments if f[:2] in (b"\xff\xd8", b"\xff\x4f")]
    if len(begins) != frames:
        raise _damaged(header, f"claims {frames} frames and holds {len(begins)} code streams")
    for code in begins:
        stated = _stated_shape(code)
        if stated != (rows, columns, 1):
            shown = "nothing" if stated is None else " x ".join(map(str, stated))
            raise _damaged(header, f"claims {rows} x {columns} pixels, its code stream {shown}")


def _check_run_lengths(header: Header, fragments: list[bytes]) -> None:
    claimed = count_frames(header) * header.values["rows"] * header.values["columns"]
    packed = sum(map(len, fragments))
    if claimed * header.values["bits_allocated"] // 8 > _MAX_RLE_RATIO * packed:
        raise _damaged(header, f"claims {claimed} pixels and holds {packed} bytes of runs")


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b"" if len(value) % 2 == 0 else (b"\0" if vr in (b"UI", b"OB") else b" ")
    head = struct.pack("<HH2s", group, element, vr)
    size = struct.pack("<HI", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return head + size + value


def _bare_file(header: Header, fragments: list[bytes]) -> bytes:
    """A DICOM file of the code stream and its pixel format alone."""
    frames, rows, columns = _shape(header)
    values = header.values
    meta = _element(2, 2, b"UI", _SECONDARY_CAPTURE) + _element(2, 3, b"UI", b"2.25.1")
    meta += _element(2, 0x10, b"UI", header.syntax.encode()) + _element(2, 0x12, b"UI", b"2.25.2")
    meta = _element(2, 1, b"OB", b"\0\1") + meta
    body = _element(8, 0x16, b"UI", _SECONDARY_CAPTURE) + _element(8, 0x18, b"UI", b"2.25.1")
    body += _element(8, 0x60, b"CS", b"OT") + _element(0x28, 2, b"US", b"\1\0")
    body += _element(0x28, 4, b"CS", b"MONOCHROME2") + _element(0x28, 8, b"IS", b"%d" % frames)
    for tag, value in ((0x10, rows), (0x11, columns), (0x100, values["bits_allocated"])):
        body += _element(0x28, tag, b"US", struct.pack("<H", value))
    for tag, name in ((0x101, "bits_stored"), (0x102, "high_bit"), (0x103, "pixel_representation")):
        body += _element(0x28, tag, b"US", struct.pack("<H", values[name]))
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    for part in (b"", *fragments):
        pixels += struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part
    pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    size = _element(2, 0, b"UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + size + meta + body + pixels


def _decompressed(header: Header) -> Iterator[np.ndarray]:
    fragments = _fragments(header)
    _check_codes(header, fragments)
    sitk = load_simpleitk()
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "pixels.dcm")
        bare.write_bytes(_bare_file(header, fragments))
        try:
            with quiet_library():
                image = sitk.ReadImage(str(bare), imageIO="GDCMImageIO")
        except RuntimeError:  # its text names the temporary file and lines of C++
            raise _damaged(header, "holds compressed pixels that do not decode") from None
    words = sitk.GetArrayViewFromImage(image)  # not to outlive `image`: copied frame by frame
    if words.shape != _shape(header):
        raise _damaged(header, f"decodes to {words.shape}, its header claims {_shape(header)}")
    for frame in words:
        yield frame.astype(_dtype(header))
