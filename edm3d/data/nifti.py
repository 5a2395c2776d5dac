"""NIfTI files (.nii, .nii.gz): header, affine and values, bounded in memory by the header's claims.

The header is read and judged before anything of the size that it claims is allocated. Compressed
files are read to their end, so that their checksum speaks. Read next: `edm3d.data.volumes`.
"""

import contextlib
import gzip
import io
import logging
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edm3d.data.geometry import Grid, Volume, as_stored, check_affine, check_size, lps_turn
from edm3d.data.slabs import stored_slabs
from edm3d.errors import InputError

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_READ_FAULTS = (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error)
_HEADER_BYTES = {348: 352, 540: 544}  # sizeof_hdr of NIfTI-1 and -2: header with extension flag
_MAX_OFFSET = 16 * 2**20  # bytes of header extensions
_MAX_GZIP_RATIO = 1032  # deflate cannot pack more (zlib's technical notes)
_SCANNER = 1  # NIfTI-1: NIFTI_XFORM_SCANNER_ANAT
_FORM_TOLERANCE = 0.25  # of the smallest voxel edge, at any corner: float32 and rounded pixdims


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())  # nibabel tells some faults in several lines


def _open(path: Path) -> io.BufferedIOBase:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")  # pyright: ignore[reportReturnType]


def _header_block(path: Path) -> bytes:
    """The header's bytes; shorter ones are left to the parser to refuse."""
    with _open(path) as file:
        block = file.read(540)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    return block[: 540 if 540 in sizes else 348]


def load_header(path: Path):
    """nibabel's NIfTI-1 or -2 header, checked; no extension and no voxel is read.

    Voxel sizes of 0 stay 0, which nibabel would mend to 1 mm.
    """
    import nibabel
    from nibabel import imageglobals
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        block = _header_block(path)
        kind = nibabel.Nifti2Header if len(block) == 540 else nibabel.Nifti1Header
        with _silenced(imageglobals.logger):  # what it logs, it raises too
            header = kind(block, check=True)
            unset = kind(block, check=False)["pixdim"][1:4] == 0
            header.get_slope_inter()  # a fault of it counts here
    except (HeaderDataError, WrapStructError, *_READ_FAULTS) as error:
        raise InputError(
            f"{path} is not a readable NIfTI file ({_one_line(error)}); give .nii or .nii.gz"
        ) from error
    if bytes(header["magic"])[:2] != b"n+":
        raise InputError(f"{path} is not a readable NIfTI file (no n+1 mark); give one .nii.gz")
    header["pixdim"][1:4][unset] = 0
    return header


def _shape_xyz(header, path: Path) -> tuple[int, int, int]:
    """The three dimensions of a header that claims one scalar volume of a size that is read."""
    claimed = header.get_data_shape()
    shape = tuple(int(n) for n in claimed)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise InputError(f"{path} has several components a voxel (colour?); give one value a voxel")
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path} has shape {tuple(map(int, claimed))}; give one 3-D volume")
    check_size(shape, path)
    return shape[0], shape[1], shape[2]


def _distance_mm(first: np.ndarray, second: np.ndarray, shape_xyz: tuple[int, ...]) -> float:
    """How far apart two affines place the corner of the volume that they place farthest apart."""
    corners = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in shape_xyz), 1]
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(((first - second) @ corners.T)[:3], axis=0).max())


def _affine_ras(header, shape_xyz: tuple[int, int, int], path: Path) -> np.ndarray:
    """sform or qform. Where both are set and differ, the one that says "scanner" (code 1) holds.

    NIfTI-1 lets the sform lead to an atlas while the qform stays in the scanner. Two that both
    claim the scanner, or neither, contradict each other: refused.
    """
    sform, s_code = header.get_sform(coded=True)
    qform, q_code = header.get_qform(coded=True)
    if not s_code and not q_code:
        raise InputError(
            f"affine of {path} is unset (sform and qform codes are 0), so left and right are "
            "unknown; write the scan's true affine"
        )
    if not (s_code and q_code):
        return sform if s_code else qform
    check_affine(sform, path)
    check_affine(qform, path)
    edge = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    apart = _distance_mm(sform, qform, shape_xyz)
    if apart <= _FORM_TOLERANCE * edge:
        return sform
    if (s_code == _SCANNER) != (q_code == _SCANNER):
        return sform if s_code == _SCANNER else qform
    raise InputError(
        f"sform (code {int(s_code)}) and qform (code {int(q_code)}) of {path} place its corners "
        f"{apart:.3g} mm apart; write the scan's true affine to both"
    )


def _place(path: Path):
    """The header, shape `(i, j, k)`, LPS grid and the turn that leads to it."""
    from nibabel.spatialimages import HeaderDataError

    header = load_header(path)
    shape = _shape_xyz(header, path)
    try:
        affine = _RAS_TO_LPS @ np.asarray(_affine_ras(header, shape, path), np.float64)
    except (HeaderDataError, *_READ_FAULTS) as error:  # a quaternion longer than 1
        raise InputError(
            f"affine of {path} is unusable ({_one_line(error)}); write the scan's true affine"
        ) from error
    check_affine(affine, path)
    return header, shape, *lps_turn(shape, affine)


def read_grid(path: Path) -> Grid:
    """The grid of a NIfTI volume in LPS order, from its header alone."""
    return _place(path)[2]


def _check_bytes(header, claimed: int, path: Path) -> int:
    """The offset of the values; raises `InputError` where the file cannot hold what it claims."""
    offset, size = float(header["vox_offset"]), path.stat().st_size
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    most = size * _MAX_GZIP_RATIO if packed else size
    if not (math.isfinite(offset) and 0 <= offset and offset + claimed <= most):
        raise InputError(
            f"{path} breaks off (its header claims {claimed} bytes from {offset:g} on, the file "
            f"has {size}); copy the file again"
        )
    if offset > _MAX_OFFSET:
        raise InputError(f"{path} has {offset:g} bytes of header; at most {_MAX_OFFSET} are read")
    if offset % 1 or offset < _HEADER_BYTES[int(header["sizeof_hdr"])]:
        raise InputError(f"{path} is not a readable NIfTI file (vox_offset is {offset:g})")
    return int(offset)


def _reach_the_checksum(file: gzip.GzipFile, path: Path) -> None:
    """Reads a .gz to its end, where its CRC is compared; what follows the values must be little."""
    for _ in range(_MAX_OFFSET // 2**16):
        if not file.read(2**16):
            return
    raise InputError(f"{path} goes on for over {_MAX_OFFSET} bytes after its values; repack it")


def fill(values_xyz: np.ndarray, header, path: Path, kind: type) -> None:
    """Puts the file's values into `[i, j, k]`, a slab at a time, scaled in floats of `kind`."""
    dtype = header.get_data_dtype()
    offset = _check_bytes(header, values_xyz.size * dtype.itemsize, path)
    slope, inter = header.get_slope_inter()
    try:
        with _open(path) as file, np.errstate(all="ignore"):  # whoever judges values names NaN
            factor, summand = kind(1 if slope is None else slope), kind(inter or 0)
            file.seek(offset)
            for part, stored in stored_slabs(file, values_xyz.shape, dtype, path):
                place = values_xyz[part]
                np.multiply(stored, factor, out=place, casting="same_kind")
                np.add(place, summand, out=place, casting="same_kind")
            if isinstance(file, gzip.GzipFile):
                _reach_the_checksum(file, path)
    except _READ_FAULTS as error:
        raise InputError(f"{path} breaks off ({_one_line(error)}); copy the file again") from error


def read_nifti(path: Path) -> Volume:
    """The file's scaled values as float32, axes re-ordered and flipped to the closest LPS ones."""
    header, _, grid, turn = _place(path)
    values = np.empty(grid.shape_zyx, np.float32)
    kind = np.float32 if header.get_data_dtype().itemsize <= 2 else np.float64
    fill(as_stored(values, turn), header, path, kind)
    return Volume(values, grid)


def write_nifti(path: str | os.PathLike, values_zyx: np.ndarray, grid: Grid) -> None:
    """Writes `[z, y, x]` int16, float32 or uint8 values as .nii.gz, sform = qform, atomically."""
    import nibabel

    path = Path(path)
    if values_zyx.dtype not in (np.int16, np.float32, np.uint8):
        raise ValueError(f"dtype {values_zyx.dtype} is not written; use int16, float32 or uint8")
    if values_zyx.shape != grid.shape_zyx or not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path.name}: shape {values_zyx.shape}, grid {grid.shape_zyx}, .nii.gz")
    affine = _RAS_TO_LPS @ grid.affine_lps
    image = nibabel.Nifti1Image(values_zyx.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        nibabel.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
