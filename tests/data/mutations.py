"""Damage to the bytes of files by a random generator: what `tests.data.fuzzing` does to them."""

import re
import struct
import zlib
from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]


def truncated(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, len(data))]


def flipped(first: int, last: int | None = None, most: int = 8) -> Mutation:
    """Flips 1 to `most` bits between two bytes."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        out, end = bytearray(data), min(last or len(data), len(data))
        for place in rng.integers(min(first, end - 1), end, rng.integers(1, most + 1)):
            out[place] ^= 1 << rng.integers(0, 8)
        return bytes(out)

    return mutate


def zeroed(data: bytes, rng: np.random.Generator) -> bytes:
    start, length = rng.integers(0, len(data)), rng.integers(1, 64)
    return data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]


def spliced(data: bytes, rng: np.random.Generator) -> bytes:
    """Leaves a piece out, or puts one in twice."""
    first, second = sorted(rng.integers(0, len(data), 2))
    return data[:first] + data[second:] if rng.random() < 0.5 else data[:second] + data[first:]


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, 200)] + rng.bytes(len(data))


def field(offset: int, code: str, *choices: tuple) -> Mutation:
    """Overwrites a field of a binary header by one of several values."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        new = struct.pack(code, *choices[rng.integers(len(choices))])
        return data[:offset] + new + data[offset + len(new) :]

    return mutate


def text(pattern: bytes, *choices: bytes) -> Mutation:
    """Overwrites what a pattern finds in a text header."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        new = choices[rng.integers(len(choices))]
        return re.sub(pattern, lambda _: new, data, count=1)

    return mutate


def png_header(offset: int, code: str, *choices: tuple) -> Mutation:
    """Overwrites a field of a PNG's header and mends its checksum, so that readers believe it."""
    overwrite = field(16 + offset, code, *choices)

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        out = overwrite(data, rng)
        return out[:29] + struct.pack(">I", zlib.crc32(out[12:29])) + out[33:]

    return mutate


def png_chunk(*choices: tuple[bytes, bytes]) -> Mutation:
    """Puts a chunk of a type and body, its checksum right, between header and pixels."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        name, body = choices[rng.integers(len(choices))]
        chunk = struct.pack(">I", len(body)) + name + body
        return data[:33] + chunk + struct.pack(">I", zlib.crc32(name + body)) + data[33:]

    return mutate


NAN, INF = float("nan"), float("inf")
NIFTI: list[Mutation] = [
    truncated,
    flipped(0, 352),
    flipped(40, 56, 3),
    flipped(70, 124, 4),
    flipped(252, 328, 4),
    flipped(352),
    zeroed,
    spliced,
    noise,
    field(40, "<8h", (3, 12, 13, 11, 1, 1, 1, 1), (3, 11, 12, 13, 1, 1, 1, 1)),
    field(
        40, "<8h", (3, *[32767] * 3, 1, 1, 1, 1), (7, *[32767] * 7), (3, 512, 512, 900, *[1] * 4)
    ),
    field(40, "<8h", (3, -13, 11, 12, 1, 1, 1, 1), (0,) * 8, (3, 13, 11, 0, 1, 1, 1, 1)),
    field(70, "<2h", (64, 64), (2, 8), (1792, 128), (512, 16), (128, 24), (2304, 32), (1, 1)),
    field(108, "<f", (NAN,), (INF,), (-8.0,), (1e30,), (353.5,), (0.0,), (2.0**26,)),
    field(112, "<2f", (NAN, 0.0), (INF, 0.0), (1e30, 1e30), (0.0, 5.0), (1.0, NAN), (-1.0, 0.0)),
    field(280, "<12f", (NAN,) * 12, (INF,) * 12, (0.0,) * 12, (1e30,) * 12, (1.0,) * 12),
    field(252, "<2h", (0, 0), (1, 0), (1, 1), (999, -7), (2, 1)),
    field(256, "<6f", (2.0, 2, 2, 0, 0, 0), (NAN,) * 6, (INF,) * 6, (0.5, 0.5, 0.5, 9, 9, 9)),
    field(344, "<4s", (b"ni1\0",), (b"n+2\0",), (b"xxxx",)),
    field(348, "<4B", (1, 0, 0, 0), (255, 255, 255, 255)),
]
DICOM: list[Mutation] = [
    truncated,
    flipped(128, 600),
    flipped(128, 600, 2),
    flipped(132, 300, 3),
    flipped(600),
    zeroed,
    spliced,
    noise,
    text(rb"\x28\0\x10\0US\x02\0..", b"\x28\0\x10\0US\x02\0\xff\xff", b"\x28\0\x10\0US\x02\0\0\0"),
    text(rb"\x28\0\x10\0US\x02\0..", b"\x28\0\x10\0US\x02\0\x0d\0", b"\x28\0\x10\0US\x04\0\x0d\0"),
    text(
        rb"\x28\0\0\x01US\x02\0..", *(b"\x28\0\0\x01US\x02\0" + bytes([n, 0]) for n in (0, 8, 32))
    ),
    text(rb"-30\\-20", b"nan\\inf", b"1e9\\1e9", b"MARKNAM", b"..\\..\\."),
    text(rb"1\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\0\\0", b"0\\1\\0\\1\\0\\0", b"9\\9\\9\\9\\9\\9"),
    text(rb"2\.0\\1\.5", b"0.0\\0.0", b"nan\\1.5", b"9e9\\9e9", b"1.5\\2.0", b"-2.\\1.5"),
    text(rb"-1024 ", b"      ", b"nan   ", b"-9e99 ", b"1e999 "),
    text(rb"\xe0\x7f\x10\0OW\0\0....", b"\xe0\x7f\x10\0OW\0\0\xff\xff\xff\xff"),
    text(rb"\xe0\x7f\x10\0OW\0\0....", b"\xe0\x7f\x10\0OW\0\0\0\0\0\xf0"),
    text(
        rb"\x10\0\x20\0LO..", b"\x10\0\x20\0UN\0\0\xff\xff\xff\xff", b"\x10\0\x20\0SQ\0\0\0\0\0\x7f"
    ),
    text(rb"1\.2\.840\.10008\.1\.2\.1\0", b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.2\0"),
    text(rb"1\.2\.840\.10008\.1\.2\.1\0", b"1.2.840.10008.1.2\0\0\0"),
]
FILM: list[Mutation] = [
    *DICOM,
    text(rb"CSDX|CS\x02\0DX", b"CS\x02\0CT", b"CS\x02\0\xff\xff", b"CS\x02\0MA"),
    text(rb"2\.0\\1\.5", b"\\\\\\\\\\\\\\", b"1_0\\1_0", b"1e-9\\1 ", b"2,0\\1,5", b"MARKNAM"),
    text(rb"L\\F ", b"R\\H ", b"\\\\\\\\", b"Q\\F ", b"L\\\0 ", b"MARK"),
    text(rb"MONOCHROME2 ", b"MONOCHROME1 ", b"RGB         ", b"YBR_FULL    ", b"PALETTE COL\0"),
    text(rb"\x28\0\x02\0US\x02\0..", b"\x28\0\x02\0US\x02\0\x03\0", b"\x28\0\x02\0US\x02\0\0\0"),
    text(
        rb"\x28\0\x01\x01US\x02\0..",
        b"\x28\0\x01\x01US\x02\0\x0c\0",
        b"\x28\0\x01\x01US\x02\0\0\xff",
    ),
    text(rb"1\.200", b"nan  ", b"9e999", b"-1.20", b"1_2.0", b"MARKN"),
    text(rb"LIN ", b"LOG ", b"\0\0\0\0", b"DISP"),
    text(
        rb"1\.2\.840\.10008\.1\.2\.1\0", *(b"1.2.840.10008.1.2.4.%d" % n for n in (50, 70, 80, 90))
    ),
]
PNG: list[Mutation] = [
    truncated,
    flipped(0, 40),
    flipped(33, 60, 3),
    flipped(40),
    zeroed,
    spliced,
    noise,
    png_header(0, ">2I", (2**31 - 1, 2**31 - 1), (7000, 8000), (0, 0), (2**32 - 1, 1), (50, 40)),
    png_header(0, ">2I", (51, 40), (50, 41), (50, 39), (49, 40), (100, 20), (16, 16)),
    png_header(8, ">B", (1,), (2,), (4,), (8,), (16,), (255,)),
    png_header(9, ">B", (0,), (2,), (3,), (4,), (6,), (9,)),
    png_header(10, ">3B", (0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 9)),
    png_chunk((b"tRNS", b"\0\1"), (b"gAMA", bytes(4)), (b"PLTE", bytes(9)), (b"sBIT", b"\xff")),
    png_chunk((b"pHYs", b"\xff" * 9), (b"IHDR", bytes(13)), (b"IEND", b""), (b"IDAT", b"x")),
    png_chunk((b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26))), (b"tEXt", b"MARKNAME\0MARK")),
]
NIFTI_FILM: list[Mutation] = [
    *NIFTI,
    field(40, "<8h", (2, 50, 40, 1, 1, 1, 1, 1), (3, 50, 40, 1, 1, 1, 1, 1), (2, 40, 50, *[1] * 5)),
    field(40, "<8h", (2, 32767, 32767, *[1] * 5), (2, 7000, 8000, *[1] * 5), (1, 2000, *[1] * 6)),
    field(76, "<4f", (1, NAN, 2, 2), (1, 0, 0, 0), (1, -2, -2, 2), (1, INF, 2, 2), (1, 1e30, 2, 2)),
]
META: list[Mutation] = [
    truncated,
    flipped(0, 300),
    flipped(0, 300, 2),
    flipped(300),
    zeroed,
    spliced,
    noise,
    text(
        rb"(?<=DimSize = )13 11 9|(?<=sizes: )13 11 12", b"9999999 9999999 9", b"-1 -1 -1", b"0 0 0"
    ),
    text(rb"13 11 12", b"11 13 12", b"12 13 11", b"512 512 900", b"4294967297 1 1", b"13 11"),
    text(rb"MET_SHORT|short", b"MET_FLOAT", b"MET_OTHER", b"double", b"MET_STRING", b"block"),
    text(rb"NDims = 3|dimension: 3", b"NDims = 99999", b"NDims = -3", b"dimension: 16"),
    text(rb"NDims = 3|dimension: 3", b"NDims = 2", b"dimension: 4", b"NDims = 11"),
    text(rb"(?<=TransformMatrix = )\S+|(?<=space directions: )\S+", b"nan", b"(nan,inf,1)", b""),
    text(rb"(?<=ElementSpacing = )\S+|(?<=space origin: )\S+", b"0", b"nan", b"-5", b"(inf,0,0)"),
    text(
        rb"(?<=ElementDataFile = )LOCAL|(?<=encoding: )\w+", b"/dev/zero", b"LIST", b"gzip", b"x%d"
    ),
    text(rb"(?<=CompressedDataSize = )\d+", b"99999999999999", b"-1", b"0"),
    text(rb"CompressedData = \w+", b"CompressedData = True", b"CompressedData = False"),
    text(rb"BinaryDataByteOrderMSB = False|endian: little", b"HeaderSize = -1", b"endian: big"),
    text(rb"ElementDataFile", b"ElementNumberOfChannels = 999999999\nElementDataFile"),
    text(rb"NDims", b"HeaderSize = 99999999999\nNDims"),
]
MANIFEST: list[Mutation] = [
    truncated,
    flipped(0),
    flipped(0, None, 40),
    zeroed,
    spliced,
    noise,
    text(rb",", b',"', b";", b",,", b'"', b"\0", b"\r"),
    text(rb"pig1", b"=cmd|' /C calc'!A0", b"<script>", b"../..", b"a/b", b"p" * 200000, b"\xff"),
    text(rb"ct\.nii\.gz", b"/dev/zero", b"..", b"x" * 5000, b"\xf0\x9f\x90\x96", b"con\nfig"),
    text(rb"supine", b"SUPINE", b"su\npine", b"\xe2\x80\xae"),
    text(rb"early,", b"", b"early,early,"),
    text(rb"\A", b"\xef\xbb\xbf", b"\xff\xfe", b"\xef\xbb\xbf\n"),
    text(rb"\r\n", b"\n", b"\n\n", b"\r", b",more\r\n"),
    text(rb"\Z", b"\n\n", b",,,\n", b"\x1a", b"pig2,,,\n"),
    text(rb"8", b"8" * 400, b"nan", b"1e400", b"0x10", b"8,5"),
]
