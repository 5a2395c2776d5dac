"""No reader holds a file beside its volume, whatever the type, packing or turn of its values."""

import gzip
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from edm3d.data.dicom_tags import DEFLATED
from edm3d.data.slabs import parts_of
from edm3d.data.volumes import read_ct
from tests.data.dicom_phantoms import (
    EXPLICIT,
    ORIENTATION,
    POSITION,
    SPACING_ZYX,
    data_set,
    enhanced_fields,
    slice_fields,
    write_file,
    write_series,
)
from tests.data.phantoms import chest

SHAPE = (96, 160, 160)
HU = chest(SHAPE)
# float32 as returned is 4 bytes a voxel, the mask of a check 1. Slabs, slices and headers, at any
# size of volume some MB, are most of the rest; the file itself would be 2 (int16) to 8 more.
MOST_BYTES_A_VOXEL = 5.75


def write_nifti(path: Path, kind: str, turned: bool = False) -> Path:
    """HU of a type and byte order as numpy names it (`>f8`), stored doubled with slope 0.5."""
    hu, sign = (HU[::-1, ::-1, ::-1], -1) if turned else (HU, 1)
    header = nibabel.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(kind)
    header.set_data_shape(SHAPE[::-1])
    header.set_sform(np.diag([-2.0 * sign, -2.0 * sign, 2.0 * sign, 1.0]), code=1)
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 0.5, -1100
    header["magic"] = b"n+1"
    data = header.binaryblock + bytes(4) + ((hu + 1100) * 2).astype(kind).tobytes()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def write_meta(path: Path, kind: str, packed: bool) -> Path:
    size = " ".join(map(str, SHAPE[::-1]))
    text = f"NDims = 3\nDimSize = {size}\nElementType = {kind}\nCompressedData = {packed}\n"
    text += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 2 2 2\n"
    text += "ElementDataFile = LOCAL\n"
    data = HU.astype({"MET_SHORT": "<i2", "MET_DOUBLE": "<f8"}[kind]).tobytes()
    path.write_bytes(text.encode() + (zlib.compress(data, 1) if packed else data))
    return path


def write_nrrd(path: Path) -> Path:
    size = " ".join(map(str, SHAPE[::-1]))
    text = f"NRRD0004\ntype: double\ndimension: 3\nsizes: {size}\nencoding: gzip\nendian: big\n"
    text += "space: left-posterior-superior\nspace directions: (2,0,0) (0,2,0) (0,0,2)\n"
    text += "space origin: (0,0,0)\n\n"
    path.write_bytes(text.encode() + gzip.compress(HU.astype(">f8").tobytes(), 1))
    return path


def write_prone(folder: Path) -> Path:
    def prone(z, fields):
        place = [2.0 * SHAPE[2], 2.0 * SHAPE[1], SPACING_ZYX[0] * z]
        return fields | {ORIENTATION: ("DS", [-1, 0, 0, 0, -1, 0]), POSITION: ("DS", place)}

    write_series(folder, HU[:, ::-1, ::-1], prone)
    return folder


def write_deflated(folder: Path) -> Path:
    folder.mkdir()
    meta = bytes(128) + b"DICM" + data_set({0x00020010: ("UI", DEFLATED)}, EXPLICIT)
    for z, plane in enumerate(HU):
        packed = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packed.compress(data_set(slice_fields(plane, SPACING_ZYX[0] * z, z + 1), EXPLICIT))
        (folder / f"{z}.dcm").write_bytes(meta + body + packed.flush())
    return folder


WRITERS = {
    "NIfTI of int16": lambda folder: write_nifti(folder / "a.nii", "<i2"),
    "NIfTI of float32, packed": lambda folder: write_nifti(folder / "a.nii.gz", "<f4"),
    "NIfTI of float64": lambda folder: write_nifti(folder / "a.nii", "<f8", turned=True),
    "NIfTI of float64, packed": lambda folder: write_nifti(folder / "a.nii.gz", ">f8"),
    "NIfTI of int32, packed": lambda folder: write_nifti(folder / "a.nii.gz", ">i4", turned=True),
    "MetaImage of int16": lambda folder: write_meta(folder / "a.mha", "MET_SHORT", False),
    "MetaImage of float64, packed": lambda folder: write_meta(folder / "a.mha", "MET_DOUBLE", True),
    "NRRD of float64, packed": lambda folder: write_nrrd(folder / "a.nrrd"),
    "DICOM series, prone": lambda folder: write_prone(folder / "a"),
    "DICOM series, deflated": lambda folder: write_deflated(folder / "a"),
    "DICOM, enhanced": lambda folder: write_file(folder / "a.dcm", enhanced_fields(HU)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_reading_needs_little_more_than_the_values_themselves(tmp_path, name):
    path = WRITERS[name](tmp_path)
    np.testing.assert_array_equal(read_ct(path).values, HU)  # and imports what it needs
    tracemalloc.start()
    read_ct(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES_A_VOXEL * HU.size


@pytest.mark.parametrize("shape", [(7, 5, 3), (64, 3, 2), (4, 9, 11), (1, 1, 40)])
def test_parts_cover_a_volume_once_in_the_order_of_its_file(shape):
    places = np.arange(np.prod(shape)).reshape(shape, order="F")
    parts = [places[part].ravel(order="F") for part in parts_of(shape, most=20)]
    np.testing.assert_array_equal(np.concatenate(parts), places.ravel(order="F"))
    assert max(map(len, parts)) <= max(20, shape[0])
