"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files, through SimpleITK, sizes checked first.

The text header is looked at before ITK is: it may name no file outside its own folder, and it must
say how voxels lie in the scanner. Read next: `edm3d.data.volumes`.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edm3d.data.geometry import Grid, Volume, check_affine, check_size, lps_turn, turned
from edm3d.errors import InputError

_META, _NRRD = (".mha", ".mhd"), (".nrrd", ".nhdr")
_SPACES = {"left-posterior-superior", "lps", "right-anterior-superior", "ras"}
_SPACES |= {"left-anterior-superior", "las"}
_MAX_HEADER = 2**16
_MAX_DEFLATE_RATIO = 1032


def is_image(path: Path) -> bool:
    """Whether the name says MetaImage or NRRD."""
    return path.suffix.lower() in (*_META, *_NRRD)


def load_simpleitk():
    """SimpleITK, or an `InputError` that says how to install it."""
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise InputError(
            "SimpleITK is not installed, which reads MetaImage, NRRD and compressed DICOM; "
            "pip install SimpleITK"
        ) from error
    return sitk


@contextlib.contextmanager
def quiet_library() -> Iterator[None]:
    """Keeps the libraries under ITK from printing beside the error that they raise as well."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _fields(path: Path) -> dict[str, str]:
    """The `key = value` or `key: value` lines of the header, keys in lower case."""
    with open(path, "rb") as file:
        head = file.read(_MAX_HEADER)
    nrrd = path.suffix.lower() in _NRRD
    if nrrd and not head.startswith(b"NRRD000"):
        raise InputError(f"{path} is no NRRD file (no NRRD mark); correct the path or its suffix")
    end = re.search(rb"\r?\n\r?\n" if nrrd else rb"(?im)^\s*ElementDataFile\s*=[^\n]*\n?", head)
    text = head[: end.end() if end else None].decode("latin-1").replace("\r\n", "\n")
    found = re.findall(r"(?m)^([A-Za-z][\w ]*?)\s*:?=?[:=]=?\s*(.*?)\s*$", text)
    return {key.lower(): value for key, value in found}


def _check_fields(fields: dict[str, str], path: Path) -> None:
    if path.suffix.lower() in _NRRD:
        named, local = fields.get("data file", fields.get("datafile")), ""
        placed = "space directions" in fields and fields.get("space", "").lower() in _SPACES
        mend = "space directions or a space of LPS or RAS"
    else:
        named, local = fields.get("elementdatafile"), "LOCAL"
        placed = {"transformmatrix", "elementspacing"} <= set(fields)
        mend = "a TransformMatrix or ElementSpacing"
        if named is None:
            raise InputError(f"{path} is no MetaImage (no ElementDataFile); correct the path")
    if named and named != local and Path(named).name != named:
        raise InputError(f"{path} names its values outside its folder; keep both files together")
    if named in ("LIST", "SKIPLIST") or (named and "%" in named):
        raise InputError(f"{path} is spread over several files; write it as one")
    if _packing(fields) is None:
        raise InputError(f"{path} is packed in a way that is not read; write it raw or by gzip")
    if not placed:
        raise InputError(f"{path} lacks {mend}, so left and right are unknown; write its geometry")


def _packing(fields: dict[str, str]) -> int | None:
    """How many bytes a byte of values may unpack to at most; None for what is not read."""
    if "encoding" in fields:
        return {"raw": 1, "gzip": _MAX_DEFLATE_RATIO, "gz": _MAX_DEFLATE_RATIO}.get(
            fields["encoding"].lower()
        )
    if fields.get("binarydata", "true").lower() != "true":
        return None
    return _MAX_DEFLATE_RATIO if fields.get("compresseddata", "").lower() == "true" else 1


def _values_file(fields: dict[str, str], path: Path) -> Path:
    named = fields.get("elementdatafile", fields.get("data file", fields.get("datafile")))
    return path if named in (None, "LOCAL", "") else path.with_name(str(named))


def _affine(reader) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return affine


def _reader(path: Path):
    """A SimpleITK reader with the header read."""
    sitk = load_simpleitk()
    fields = _fields(path)
    _check_fields(fields, path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() in _NRRD else "MetaImageIO")
    try:
        with quiet_library():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} is not readable; write it again or as .nii.gz") from error
    shape = reader.GetSize()
    components = reader.GetNumberOfComponents()
    if components != 1 or _dtype(reader).kind not in "iuf":
        raise InputError(f"{path} has {components} values a voxel; give one")
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path} has shape {tuple(shape)}; give one 3-D volume")
    check_size(shape, path)
    _check_bytes(reader, fields, path)
    return reader


def _check_bytes(reader, fields: dict[str, str], path: Path) -> None:
    """Raises `InputError` where the file cannot hold the voxels that the header claims."""
    values = _values_file(fields, path)
    if not values.is_file():
        raise InputError(f"{path} names {values.name} for its values, which is missing; add it")
    claimed, size = math.prod(reader.GetSize()) * _dtype(reader).itemsize, values.stat().st_size
    packed = fields.get("compresseddatasize", "0")
    if claimed > size * (_packing(fields) or 1) or not packed.isdigit() or int(packed) > size:
        raise InputError(
            f"{path} breaks off (its header claims {claimed} bytes of values, the file has {size} "
            "in all); copy the file again"
        )


def _dtype(reader) -> np.dtype:
    sitk = load_simpleitk()
    return sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype


def _place(path: Path):
    """The reader, the LPS grid and the turn that leads to it."""
    reader = _reader(path)
    affine = _affine(reader)
    check_affine(affine, path)
    return reader, *lps_turn(reader.GetSize(), affine)


def read_grid(path: Path) -> Grid:
    """The grid in LPS order, from the header alone."""
    return _place(path)[1]


def read_image(path: Path) -> Volume:
    """The values as float32, axes re-ordered and flipped to the closest LPS ones."""
    sitk = load_simpleitk()
    reader, grid, turn = _place(path)
    try:
        with quiet_library():
            image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path} breaks off or is damaged; copy the file again") from error
    stored = turned(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), turn)
    values = np.empty(grid.shape_zyx, np.float32)
    with np.errstate(all="ignore"):  # NaN and infinity are named by whoever judges the values
        np.copyto(values, stored, casting="same_kind")
    return Volume(values, grid)
