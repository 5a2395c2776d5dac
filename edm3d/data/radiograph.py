"""Real radiographs: reading DICOM, PNG and NIfTI films as log exposure, upright.

What comes out grows with attenuation, as on a viewing box: bone is bright. Its scale is unknown
until it is matched to a projection. Nothing that names a patient is read. Read next:
`edm3d.data.dicom_film` (what DICOM tells), `edm3d.data.film_match`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edm3d.data.dicom_film import (
    check_film,
    film_magnification,
    film_pixels,
    film_spacing,
    shines_from_other_side,
)
from edm3d.data.dicom_frames import count_frames
from edm3d.data.dicom_header import read_header
from edm3d.data.dicom_pixels import quiet_library
from edm3d.data.nifti import fill, load_header
from edm3d.errors import InputError

_MOST_PIXELS = 60_000_000
_SPACING_LIMITS_MM = (0.01, 20.0)


@dataclass(frozen=True, eq=False)
class Film:
    """A radiograph: float32 `[rows, columns]`, rows to superior, columns as a DRR's.

    `spacing_mm` is that of rows and columns on the detector; `magnification` is what the header
    tells of the subject's enlargement on it, if anything. An AP or right lateral film is
    `reversed`.
    """

    name: str
    values: np.ndarray
    spacing_mm: tuple[float, float]
    magnification: float | None = None
    reversed: bool = False


def read_radiograph(path: str | Path, view: str, *, pixel_mm: float | None = None) -> Film:
    """A film of the view 'pa' or 'lat', log exposure upright; `pixel_mm` where the file has none.

    Without a PatientOrientation the picture must hang as usual: head up, the subject's left at the
    right of a frontal view, anterior at the left of a lateral one. DICOM of MONOCHROME1 is inverted
    to bone-bright, linear intensity (PixelIntensityRelationship LIN) becomes its -log. PNG and
    NIfTI are taken as bone-bright log exposure. Raises `InputError` for all that is no such film.
    """
    path = Path(path)
    values, spacing, magnification, other_side = _read(path, view)
    if spacing is None and pixel_mm is not None:
        spacing = (pixel_mm, pixel_mm)
    if spacing is None:
        mend = f"give xray_{view}_pixel_mm in the manifest, --pixel_mm to the preview"
        raise InputError(f"X-ray {path} states no pixel size; {mend}")
    _check_spacing(spacing, path)
    with np.errstate(over="ignore"):  # becomes infinity, which is refused
        values = np.ascontiguousarray(values[::-1], np.float32)
    _check_values(values, path)
    return Film(str(path), values, spacing, magnification, other_side)


Picture = tuple[np.ndarray, tuple[float, float] | None, float | None, bool]


def _read(path: Path, view: str) -> Picture:
    """Values `[rows, columns]` upright, the pixels' size and magnification if known, `reversed`."""
    kind = _kind_of(path)
    if kind == "NIfTI":
        return _read_nifti(path)
    return _read_dicom(path, view) if kind == "DICOM" else _read_png(path)


def _read_dicom(path: Path, view: str) -> Picture:
    header = read_header(path)
    samples = header.values.get("samples_per_pixel")
    shape = [header.values.get(name) or 0 for name in ("columns", "rows")]
    _check_size([*shape, count_frames(header)], path, 1 if samples is None else samples)
    check_film(header, view)
    pixels, spacing = film_pixels(header, view), film_spacing(header)
    return pixels, spacing, film_magnification(header), shines_from_other_side(header)


def _read_png(path: Path) -> Picture:
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise InputError("PNG radiographs need SimpleITK; pip install SimpleITK") from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO("PNGImageIO")
    reader.SetFileName(str(path))
    with _quiet(sitk):
        try:
            reader.ReadImageInformation()
            _check_size(reader.GetSize(), path, reader.GetNumberOfComponents())
            values = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise _unreadable(path, error) from error
    return values.reshape(values.shape[-2:]), None, None, False


def _read_nifti(path: Path) -> Picture:
    """By the volumes' reader: ITK's turns NaN into 0 without a word."""
    header = load_header(path)
    shape = tuple(int(n) for n in header.get_data_shape())
    _check_size(shape, path)
    _check_kind(header.get_data_dtype(), path)
    values = np.empty((*shape[:2], 1))
    fill(values, header, path, np.float64)
    columns, rows = (float(s) for s in header["pixdim"][1:3])
    return values[:, :, 0].T, (rows, columns), None, False


def _kind_of(path: Path) -> str:
    """The format that the file's first bytes, or a name on .nii.gz, tell."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"X-ray {path} {found}; give the path of one picture")
    with open(path, "rb") as file:
        head = file.read(352)
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[344:347] == b"n+1" or path.name.lower().endswith(".nii.gz"):
        return "NIfTI"
    raise InputError(f"X-ray {path} is no DICOM, PNG or NIfTI file; convert it to one of them")


@contextlib.contextmanager
def _quiet(sitk: Any) -> Iterator[None]:
    """What ITK and the libraries below it warn of, they raise too, or it does not matter."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with quiet_library():
            yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _unreadable(path: Path, error: Exception) -> InputError:
    fault = " ".join(str(error).split()).rsplit(": ", 1)[-1][-120:]
    return InputError(f"X-ray {path} cannot be read ({fault}); export it again")


def _check_size(size: Sequence[int], path: Path, components: int = 1) -> None:
    if components != 1:
        raise InputError(
            f"X-ray {path} has {components} components a pixel (colour?); export it as grey values"
        )
    if len(size) < 2 or any(n != 1 for n in size[2:]) or min(size[:2]) < 16:
        raise InputError(f"X-ray {path} has size {tuple(size)}; give one 2-D picture")
    if size[0] * size[1] > _MOST_PIXELS:
        raise InputError(f"X-ray {path} has {size[0]} x {size[1]} pixels; export it smaller")


def _check_kind(dtype: np.dtype, path: Path) -> None:
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise InputError(
            f"X-ray {path} has several components a pixel (colour?); export it as grey values"
        )


def _check_spacing(spacing: tuple[float, float], path: Path) -> None:
    low, high = _SPACING_LIMITS_MM
    if not all(low <= s <= high for s in spacing):
        shown = " x ".join(f"{s:g}" for s in spacing)
        raise InputError(f"pixel size of X-ray {path} is {shown} mm; it lies in {low:g}..{high:g}")


def _check_values(values: np.ndarray, path: Path) -> None:
    if not np.all(np.isfinite(values)):
        raise InputError(f"X-ray {path} holds NaN or infinity; export it again")
    if np.ptp(np.asarray(values, np.float64)) == 0:
        raise InputError(f"X-ray {path} is {values.flat[0]:g} everywhere; export it again")
