"""Damages files at random (by fixed seeds) and tells what became of reading them.

    python -m tests.data.fuzzing FOLDER

Runs under 4 GB of address space and prints one JSON object a file; `tests.data.test_fuzz` judges.
Every mutation is a function of bytes and a generator to bytes.
"""

import faulthandler
import gzip
import json
import re
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edm3d.data.manifest import read_manifest
from edm3d.data.volumes import Volume, read_ct, read_grid, same_grid
from edm3d.errors import InputError
from tests.data.dicom_phantoms import enhanced_fields, write_file, write_series
from tests.data.phantoms import chest, write_manifest

SHAPE = (12, 11, 13)
MARK = "MARKNAME"
MOST_BYTES = 4 * 2**30
MOST_SECONDS = 10
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


def _bombs(kind: str) -> bytes:
    """A small file whose unpacked size, or whose header's claim, is far larger than itself."""
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h", raw, 40, 3, 600, 600, 600, 1, 1, 1, 1)
    struct.pack_into("<2h", raw, 70, 4, 16)
    struct.pack_into("<8f", raw, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", raw, 108, 352.0)
    struct.pack_into("<2h", raw, 252, 1, 0)
    raw[344:348] = b"n+1\0"
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = packed.compress(bytes(raw))
    for _ in range({"exact": 48, "more": 80, "less": 3}[kind]):
        out += packed.compress(bytes(9_000_000))  # 48 of them are 600^3 int16
    return out + packed.flush()


def _sources(folder: Path) -> dict[str, tuple[Path, list[Mutation], int]]:
    """Good files by kind, what damages them, and how many times each mutation is tried."""
    import nibabel
    import SimpleITK as sitk

    hu, affine = chest(SHAPE), np.diag([-2.0, -2.0, 2.0, 1.0])
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nibabel.save(image, folder / "ct.nii")
    nibabel.save(image, folder / "ct.nii.gz")
    marked = {0x00100010: ("PN", MARK), 0x00080080: ("LO", MARK), 0x00100020: ("LO", MARK)}
    write_series(folder / "series", hu, lambda _, fields: fields | marked)
    write_file(folder / "enhanced.dcm", enhanced_fields(hu) | marked)
    picture = sitk.GetImageFromArray(hu)
    for name in ("plain.mha", "plain.nrrd"):
        sitk.WriteImage(picture, str(folder / name))
    for name in ("packed.mha", "packed.nrrd"):
        sitk.WriteImage(picture, str(folder / name), useCompression=True)
    row = dict(subject="pig1", scan="s1", stage="early", position="supine", phase="inspiration")
    row |= dict(peep_cmh2o="5", tidal_volume_ml_kg="8", ct="ct.nii.gz", split="train")
    write_manifest(folder, [row, row | dict(scan="s2", ct="ct.nii")])
    return {
        "nii": (folder / "ct.nii", NIFTI, 3),
        "nii.gz": (folder / "ct.nii.gz", NIFTI, 3),
        "series": (folder / "series" / "004.dcm", DICOM, 4),
        "enhanced": (folder / "enhanced.dcm", DICOM, 2),
        "compressed": (_compressed(folder / "compressed"), DICOM[:8], 5),
        "plain.mha": (folder / "plain.mha", META, 2),
        "packed.mha": (folder / "packed.mha", META, 2),
        "plain.nrrd": (folder / "plain.nrrd", META, 2),
        "packed.nrrd": (folder / "packed.nrrd", META, 2),
        "csv": (folder / "scans.csv", MANIFEST, 6),
    }


def _compressed(folder: Path) -> Path:
    """A series in JPEG 2000 as GDCM writes it; the path of one of its slices."""
    import SimpleITK as sitk

    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    for z, plane in enumerate(chest((12, 64, 64))):
        picture = sitk.GetImageFromArray(plane[None])
        tags = {"0008|0060": "CT", "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL", "0010|0010": MARK}
        tags |= {"0028|1052": "-1024", "0028|1053": "1", "0020|000e": "1.2.3", "0010|0020": MARK}
        tags |= {"0020|0032": f"0\\0\\{3 * z}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for key, value in tags.items():
            picture.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{z:03d}.dcm"))
        writer.Execute(picture)
    return folder / "004.dcm"


def _prepared(kind: str, source: Path, data: bytes, place: Path) -> Path:
    """Writes damaged bytes to where `source` stood among its neighbours; the path to be read."""
    if kind in ("series", "compressed"):
        shutil.copytree(source.parent, place)
        (place / source.name).write_bytes(data)
        return place
    place.mkdir()
    if kind == "csv":
        for name in ("ct.nii", "ct.nii.gz"):
            shutil.copy(source.with_name(name), place)
    (place / source.name).write_bytes(data)
    return place / source.name


def _alarm(*_) -> None:
    raise TimeoutError(f"over {MOST_SECONDS} s")


def _outcome(kind: str, path: Path, right: Volume | None, must_equal: bool) -> tuple[str, str]:
    """`refused` with the error, `read`, or `wrong` with what is wrong."""
    try:
        if kind == "csv":
            return "read", str(len(read_manifest(path)))
        volume = read_ct(path)
        header = read_grid(path)
    except InputError as error:
        return "refused", str(error)
    except BaseException:  # whatever it is, the test must hear of it
        return "wrong", traceback.format_exc()
    values = volume.values
    if values.dtype != np.float32 or values.shape != volume.grid.shape_zyx:
        return "wrong", f"{values.dtype} {values.shape} on {volume.grid.shape_zyx}"
    if not np.all(np.isfinite(values)) or values.min() < -1024 or values.max() > 32767:
        return "wrong", "values outside HU"
    if not same_grid(header, volume.grid):
        return "wrong", "the header's grid is not the volume's"
    if must_equal and right is not None and not np.array_equal(values, right.values):
        return "wrong", "a truncated file read as other values"
    return "read", ""


def _judge(name: str, kind: str, path: Path, right: Volume | None, must_equal: bool) -> None:
    signal.alarm(MOST_SECONDS)
    start = time.monotonic()
    what, why = _outcome(kind, path, right, must_equal)
    signal.alarm(0)
    seconds = round(time.monotonic() - start, 3)
    print(json.dumps(dict(name=name, outcome=what, why=why, seconds=seconds)), flush=True)


def _mutated(kind: str, data: bytes, mutate: Mutation, rng: np.random.Generator) -> bytes:
    """Damage to a packed file goes to the bytes inside, half the time to those outside."""
    if kind == "nii.gz" and not (mutate in (truncated, zeroed) and rng.random() < 0.5):
        return gzip.compress(mutate(gzip.decompress(data), rng), 1)
    return mutate(data, rng)


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _alarm)
    sources = _sources(folder)
    for kind, (source, mutations, times) in sources.items():
        whole = source.parent if kind in ("series", "compressed") else source
        right = None
        if kind == "csv":
            read_manifest(whole)
        else:
            right = read_ct(whole)
        for index, mutate in enumerate(mutations * times):
            rng = np.random.default_rng([index, *kind.encode()])
            name = f"{kind}-{index}"
            data = _mutated(kind, source.read_bytes(), mutate, rng)
            path = _prepared(kind, source, data, folder / name)
            _judge(name, kind, path, right, must_equal=mutate is truncated)
            shutil.rmtree(folder / name)
    for bomb in ("exact", "more", "less"):
        path = folder / f"{bomb}.nii.gz"
        path.write_bytes(_bombs(bomb))
        _judge(f"bomb-{bomb}", "nii.gz", path, None, False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(dict(name="peak", outcome="peak", why=str(peak), seconds=0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
