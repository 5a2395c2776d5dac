"""Radiographs written for the tests: DICOM, PNG and NIfTI."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.data.dicom_phantoms import Fields, image_fields

IMAGER_SPACING, NO_TAG = b"\x18\x00\x64\x11", b"\x18\x00\x65\x11"


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    tags: dict[str, str] | None = None,
    *,
    imager_spacing_mm: tuple[float, float] | None = (0.5, 0.5),
    monochrome1: bool = False,
    compressor: str = "",
) -> Path:
    """A DICOM film of unsigned pixels `[rows, columns]`; `monochrome1` changes that tag alone."""
    image = sitk.GetImageFromArray(pixels[None])
    rows, columns = imager_spacing_mm or (1.0, 1.0)
    image.SetSpacing((columns, rows, 1.0))  # ITK's writer makes ImagerPixelSpacing of it
    for tag, value in {"0008|0060": "DX", **(tags or {})}.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    if compressor:
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
    writer.Execute(image)
    if imager_spacing_mm is None and IMAGER_SPACING in path.read_bytes():
        _replace(path, IMAGER_SPACING, NO_TAG)
    if monochrome1:
        _replace(path, b"MONOCHROME2", b"MONOCHROME1")
    return path


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def write_picture(path: Path, pixels: np.ndarray, spacing_mm: float = 1.0) -> Path:
    """A .png or .nii.gz of pixels `[rows, columns]` (colour: `[rows, columns, 3]`)."""
    image = sitk.GetImageFromArray(pixels, isVector=pixels.shape[2:] == (3,))
    image.SetSpacing((spacing_mm,) * image.GetDimension())
    sitk.WriteImage(image, str(path))
    return path


def explicit_film(pixels: np.ndarray, exposure: str = "LIN ") -> Fields:
    """The fields of a DICOM film of 16 bits in which every tag that is read has a value."""
    return image_fields(pixels) | {
        0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.1.1"),
        0x00080060: ("CS", "DX"),
        0x00181114: ("DS", "1.200"),
        0x00181164: ("DS", "2.0\\1.5"),
        0x00185101: ("CS", "AP"),
        0x00200020: ("CS", "L\\F "),
        0x00281040: ("CS", exposure),
        0x00281041: ("SS", 1),
    }


def ramp(rows=40, columns=50, top=4000) -> np.ndarray:
    """uint16 that differ in every row and column."""
    pixels = np.linspace(0, top, rows * columns).reshape(rows, columns)
    return np.rint(pixels).astype(np.uint16)
