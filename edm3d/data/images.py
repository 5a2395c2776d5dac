"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files, every claim of their text header checked.

They are parsed here, as ITK's own readers crash the whole process on some damaged headers. What is
rare (ASCII values, lists of files, more axes) is refused. Sources: the documentation of MetaIO
(Kitware) and of the NRRD format (teem). Read next: `edm3d.data.volumes`.
"""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm3d.data.geometry import Grid, Volume, as_stored, check_affine, check_size, lps_turn
from edm3d.data.slabs import Unpacking, stored_slabs
from edm3d.errors import InputError

_NRRD = (".nrrd", ".nhdr")
_MAX_HEADER = 2**16
_MAX_DEFLATE_RATIO = 1032
_META_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **{"float": "f4", "double": "f8"},
}
_SPACES = {  # signs that lead to LPS
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}


@dataclass(frozen=True, eq=False)
class _Header:
    """What a text header claims: shape `(i, j, k)`, type, place, and where the values begin."""

    path: Path
    shape_xyz: tuple[int, int, int]
    dtype: np.dtype
    affine_lps: np.ndarray
    packed: bool
    values: Path
    offset: int

    @property
    def claimed_bytes(self) -> int:
        return math.prod(self.shape_xyz) * self.dtype.itemsize


def is_image(path: Path) -> bool:
    """Whether the name says MetaImage or NRRD."""
    return path.suffix.lower() in (".mha", ".mhd", *_NRRD)


def _unreadable(path: Path, key: str) -> InputError:
    return InputError(f"{path} has no usable {key}; write it again or as .nii.gz")


def _text(path: Path, end: bytes) -> tuple[dict[str, str], int]:
    """The fields of the header, keys in lower case, and the byte after it."""
    with open(path, "rb") as file:
        head = file.read(_MAX_HEADER)
    found = re.search(end, head)
    if found is None:
        raise InputError(f"{path} breaks off in its header; copy the file again")
    text = head[: found.end()].decode("latin-1").replace("\r\n", "\n")
    pairs = re.findall(r"(?m)^([A-Za-z][\w ]*?) *[:=] *(.*?) *$", text)
    if len({key.lower() for key, _ in pairs}) < len(pairs):
        raise InputError(f"{path} gives a field of its header twice; write it again")
    return {key.lower(): value for key, value in pairs}, found.end()


def _numbers(fields: dict[str, str], key: str, count: int, path: Path) -> list[float]:
    parts = re.split(r"[\s,()]+", fields.get(key, "").strip(" ()"))
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise _unreadable(path, key)
    return numbers


def _shape(fields: dict[str, str], axes: str, key: str, path: Path) -> tuple[int, int, int]:
    sizes = fields.get(key, "").split()
    if fields.get(axes) != "3" or len(sizes) != 3:
        raise InputError(f"{path} has not three axes; give one 3-D volume")
    if not all(re.fullmatch(r"\d{1,18}", size) for size in sizes):
        raise _unreadable(path, key)
    x, y, z = (int(size) for size in sizes)
    if min(x, y, z) < 2:
        raise InputError(f"{path} has shape {(x, y, z)}; give one 3-D volume")
    check_size((x, y, z), path)
    return x, y, z


def _beside(path: Path, name: str) -> Path:
    """The file of values that a header names; it lies in the header's folder."""
    if not name or Path(name).name != name:
        raise InputError(f"{path} names its values outside its folder; keep both files together")
    if name.split()[0] in ("LIST", "SKIPLIST") or "%" in name:
        raise InputError(f"{path} is spread over several files; write it as one")
    if "\0" in name or len(name) > 255 or not path.with_name(name).is_file():
        raise InputError(f"{path} names {name[:80]!r} for its values, which is missing; add it")
    return path.with_name(name)


def _affine(columns: Sequence[Sequence[float]], origin: Sequence[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(columns).T, origin
    return affine


def _geometry_missing(path: Path, what: str) -> InputError:
    return InputError(f"{path} lacks {what}, so left and right are unknown; write its geometry")


def _flag(fields: dict[str, str], key: str, path: Path, otherwise: str) -> bool:
    value = fields.get(key, otherwise).lower()
    if value not in ("true", "false"):
        raise _unreadable(path, key)
    return value == "true"


def _meta_header(path: Path) -> _Header:
    fields, end = _text(path, rb"(?m)^ElementDataFile *=[^\n]*(\n|\Z)")
    shape = _shape(fields, "ndims", "dimsize", path)
    if fields.get("elementnumberofchannels", "1") != "1":
        raise InputError(f"{path} has several values a voxel; give one")
    if not _flag(fields, "binarydata", path, "true") or fields.get("headersize", "0") != "0":
        raise InputError(
            f"{path} is packed in a way that is not read; write it binary or as .nii.gz"
        )
    kind = _META_TYPES.get(fields.get("elementtype", ""))
    if kind is None:
        raise _unreadable(path, "elementtype")
    if "transformmatrix" not in fields or "elementspacing" not in fields:
        raise _geometry_missing(path, "a TransformMatrix or ElementSpacing")
    msb = "elementbyteordermsb" if "elementbyteordermsb" in fields else "binarydatabyteordermsb"
    order = ">" if _flag(fields, msb, path, "false") else "<"
    spacing = _numbers(fields, "elementspacing", 3, path)
    if min(spacing) <= 0:
        raise _unreadable(path, "elementspacing")
    cosines = np.reshape(_numbers(fields, "transformmatrix", 9, path), (3, 3))
    if np.abs(cosines @ cosines.T - np.eye(3)).max() > 1e-2:
        raise _unreadable(path, "transformmatrix")
    origin = next((k for k in ("offset", "position", "origin") if k in fields), "offset")
    columns = cosines * np.array(spacing)[:, None]
    affine = _affine(columns.tolist(), _numbers(fields, origin, 3, path))
    local = fields["elementdatafile"] == "LOCAL"
    values = path if local else _beside(path, fields["elementdatafile"])
    packed = _flag(fields, "compresseddata", path, "false")
    dtype = np.dtype(order + kind)
    return _Header(path, shape, dtype, affine, packed, values, end if local else 0)


def _nrrd_header(path: Path) -> _Header:
    with open(path, "rb") as file:
        if not file.read(7) == b"NRRD000":
            raise InputError(f"{path} is no NRRD file (no NRRD mark); correct the path")
    detached = path.suffix.lower() == ".nhdr"
    fields, end = _text(path, rb"\r?\n\r?\n|\n\Z" if detached else rb"\r?\n\r?\n")
    shape = _shape(fields, "dimension", "sizes", path)
    kind = _NRRD_TYPES.get(fields.get("type", "").lower())
    if kind is None:
        raise _unreadable(path, "type")
    signs = _SPACES.get(fields.get("space", "").lower())
    if signs is None or "space directions" not in fields:
        raise _geometry_missing(path, "space directions or a space of LPS or RAS")
    encoding, skips = fields.get("encoding", "").lower(), {"line skip", "byte skip", "lineskip"}
    if encoding not in ("raw", "gzip", "gz") or skips & set(fields) or "byteskip" in fields:
        raise InputError(f"{path} is packed in a way that is not read; write it raw or by gzip")
    endian = fields.get("endian", "" if kind[1] != "1" else "little").lower()
    if endian not in ("little", "big"):
        raise _unreadable(path, "endian")
    columns = np.reshape(_numbers(fields, "space directions", 9, path), (3, 3)) * signs
    origin = np.array(_numbers(fields, "space origin", 3, path)) * signs
    affine = _affine(columns.tolist(), origin.tolist())
    named = fields.get("data file", fields.get("datafile"))
    values = path if named is None else _beside(path, named)
    dtype = np.dtype((">" if endian == "big" else "<") + kind)
    packed = encoding != "raw"
    return _Header(path, shape, dtype, affine, packed, values, end if named is None else 0)


def _place(path: Path) -> tuple[_Header, Grid, np.ndarray]:
    """The header, checked, the LPS grid and the turn that leads to it."""
    header = (_nrrd_header if path.suffix.lower() in _NRRD else _meta_header)(path)
    check_affine(header.affine_lps, path)
    there = header.values.stat().st_size - header.offset
    if header.claimed_bytes > there * (_MAX_DEFLATE_RATIO if header.packed else 1):
        raise InputError(
            f"{path} breaks off (its header claims {header.claimed_bytes} bytes of values, the "
            f"file has {there}); copy the file again"
        )
    return header, *lps_turn(header.shape_xyz, header.affine_lps)


def read_grid(path: Path) -> Grid:
    """The grid in LPS order, from the header alone."""
    return _place(path)[1]


def _fill(values_xyz: np.ndarray, header: _Header) -> None:
    """Puts the stored values into float32 `[i, j, k]`, a slab at a time."""
    path, claimed = header.path, header.claimed_bytes
    with open(header.values, "rb") as raw:
        raw.seek(header.offset)
        file = Unpacking(raw) if header.packed else raw
        try:
            for part, stored in stored_slabs(file, header.shape_xyz, header.dtype, path):
                np.copyto(values_xyz[part], stored, casting="same_kind")
            if isinstance(file, Unpacking) and not file.at_end():
                raise InputError(f"{path} does not unpack to {claimed} bytes; copy the file again")
        except zlib.error as error:
            raise InputError(f"{path} is damaged ({error}); copy the file again") from error


def read_image(path: Path) -> Volume:
    """The values as float32, axes re-ordered and flipped to the closest LPS ones."""
    header, grid, turn = _place(path)
    values = np.empty(grid.shape_zyx, np.float32)
    with np.errstate(all="ignore"):  # NaN and infinity are named by whoever judges the values
        _fill(as_stored(values, turn), header)
    return Volume(values, grid)
