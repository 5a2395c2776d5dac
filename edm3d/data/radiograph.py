"""Real radiographs: reading DICOM, PNG and NIfTI films as log exposure, upright.

What comes out grows with attenuation, as on a viewing box: bone is bright. Its scale is unknown
until it is matched to a projection: read next `edm3d.data.film_match`. Nothing that names a patient
is read.
"""

import contextlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edm3d.data.dicom_header import read_header
from edm3d.errors import InputError

_MODALITIES = ("CR", "DX", "RG", "RF")
_FRONTAL, _LATERAL = ("PA", "AP"), ("LL", "RL", "LLD", "RLD", "LATERAL")
_UPRIGHT = {"pa": ("L", "F"), "lat": ("P", "F")}  # where columns and rows of an image run to
_OPPOSITE = dict(zip("LRAPHF", "RLPAFH", strict=True))
_TAGS = {
    "modality": "0008|0060",
    "view": "0018|5101",
    "source_to_detector": "0018|1110",
    "source_to_patient": "0018|1111",
    "magnification": "0018|1114",
    "imager_spacing": "0018|1164",
    "orientation": "0020|0020",
    "photometric": "0028|0004",
    "pixel_spacing": "0028|0030",
    "bits": "0028|0101",
    "intensity": "0028|1040",
    "sign": "0028|1041",
}
# What an error may show of a header; any other text in it could be a patient's name.
_KNOWN_MODALITIES = (*_MODALITIES, "CT", "MR", "PT", "NM", "US", "MG", "IO", "PX", "XA", "OT", "SC")
_KNOWN_PHOTOMETRIC = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_DIRECTIONS = re.compile(r"[LRAPHF]{1,2}\\[LRAPHF]{1,2}")
_MOST_PIXELS = 60_000_000
_SPACING_LIMITS_MM = (0.01, 20.0)


@dataclass(frozen=True, eq=False)
class Film:
    """A radiograph: float32 `[rows, columns]`, rows to superior, columns as a DRR's.

    `spacing_mm` is that of rows and columns on the detector; `magnification` is what the header
    tells of the subject's enlargement on it, if anything.
    """

    name: str
    values: np.ndarray
    spacing_mm: tuple[float, float]
    magnification: float | None = None


def read_radiograph(path: str | Path, view: str, *, pixel_mm: float | None = None) -> Film:
    """A film of the view 'pa' or 'lat', log exposure upright; `pixel_mm` where the file has none.

    Without a PatientOrientation the picture must hang as usual: head up, the subject's left at the
    right of a frontal view, anterior at the left of a lateral one. DICOM of MONOCHROME1 is inverted
    to bone-bright, linear intensity (PixelIntensityRelationship LIN) becomes its -log. PNG and
    NIfTI are taken as bone-bright log exposure. Raises `InputError` for all that is no such film.
    """
    path = Path(path)
    values, spacing, tags = _read(path)
    if tags:
        _check_tags(tags, path, view)
        values = _log_exposure(values, tags, path)
    if spacing is None and pixel_mm is not None:
        spacing = (pixel_mm, pixel_mm)
    if spacing is None:
        mend = f"give xray_{view}_pixel_mm in the manifest, --pixel_mm to the preview"
        raise InputError(f"X-ray {path} states no pixel size; {mend}")
    _check_spacing(spacing, path)
    _check_values(values, path)
    upright = _hung(values, tags.get("orientation", ""), view, path)
    return Film(str(path), upright[::-1].astype(np.float32), spacing, _magnification(tags, path))


@contextlib.contextmanager
def _quiet(sitk: Any) -> Iterator[None]:
    """What ITK warns of, it raises too."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _image_io(path: Path) -> str:
    """The name of ITK's reader for what the file's first bytes say it is."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"X-ray {path} {found}; give the path of one picture")
    with open(path, "rb") as file:
        head = file.read(352)
    if head[128:132] == b"DICM":
        return "GDCMImageIO"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNGImageIO"
    if head[344:347] == b"n+1" or path.name.lower().endswith(".nii.gz"):
        return "NiftiImageIO"
    raise InputError(f"X-ray {path} is no DICOM, PNG or NIfTI file; convert it to one of them")


_NIFTI_FAULTS = (OSError, EOFError, ValueError, TypeError, OverflowError, zlib.error)
Picture = tuple[np.ndarray, tuple[float, float] | None, dict[str, str]]


def _unreadable(path: Path, error: Exception) -> InputError:
    fault = " ".join(str(error).split()).rsplit(": ", 1)[-1][-120:]
    return InputError(f"X-ray {path} cannot be read ({fault}); export it again")


def _read_nifti(path: Path) -> Picture:
    """By nibabel: ITK's reader turns NaN into 0 without a word."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.Nifti1Image.from_filename(path)
        _check_size(image.shape, path)
        _check_kind(np.dtype(image.get_data_dtype()), path)
        values = np.asarray(image.dataobj, np.float64)
        columns, rows = (float(s) for s in image.header.get_zooms()[:2])
    except (ImageFileError, HeaderDataError, *_NIFTI_FAULTS) as error:
        raise _unreadable(path, error) from error
    return values.reshape(values.shape[:2]).T, (rows, columns), {}


def _read(path: Path) -> Picture:
    """Stored values `[rows, columns]`, the pixels' size if known and, of DICOM, the tags we use."""
    kind = _image_io(path)
    if kind == "NiftiImageIO":
        return _read_nifti(path)
    if kind == "GDCMImageIO":
        read_header(path)  # GDCM would allocate whatever a damaged length claims
    try:
        import SimpleITK as sitk
    except ImportError as error:
        raise InputError("radiographs need SimpleITK; pip install SimpleITK") from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    with _quiet(sitk):
        try:
            reader.ReadImageInformation()
            _check_size(reader.GetSize(), path, reader.GetNumberOfComponents())
            values = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise _unreadable(path, error) from error
    values = values.reshape(values.shape[-2:])
    if kind == "PNGImageIO":
        return values, None, {}
    held = {n: t for n, t in _TAGS.items() if reader.HasMetaDataKey(t)}
    tags = {n: reader.GetMetaData(t).strip().upper() for n, t in held.items()}
    return values, _pixel_spacing(tags, path), tags


def _check_size(size: Sequence[int], path: Path, components: int = 1) -> None:
    if components != 1:
        raise InputError(
            f"X-ray {path} has {components} components a pixel (colour?); export it as grey values"
        )
    if len(size) < 2 or any(n != 1 for n in size[2:]) or min(size[:2]) < 16:
        raise InputError(f"X-ray {path} has size {tuple(size)}; give one 2-D picture")
    if size[0] * size[1] > _MOST_PIXELS:
        raise InputError(f"X-ray {path} has {size[0]} x {size[1]} pixels; export it smaller")


def _shown(value: str, known: bool) -> str:
    return repr(value) if known else "that is not one of the accepted ones"


def _check_kind(dtype: np.dtype, path: Path) -> None:
    if dtype.fields is not None or dtype.kind not in "iuf":
        raise InputError(
            f"X-ray {path} has several components a pixel (colour?); export it as grey values"
        )


def _check_tags(tags: Mapping[str, str], path: Path, view: str) -> None:
    modality, position = tags.get("modality", ""), tags.get("view", "")
    if modality not in _MODALITIES:
        shown = _shown(modality, modality in _KNOWN_MODALITIES)
        raise InputError(f"X-ray {path} has a modality {shown}; give a radiograph (CR or DX)")
    if position in (_LATERAL if view == "pa" else _FRONTAL):
        wanted = "frontal" if view == "pa" else "lateral"
        raise InputError(f"X-ray {path} has ViewPosition {position!r}; give a {wanted} view")
    photometric = tags.get("photometric", "")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        shown = _shown(photometric, photometric in _KNOWN_PHOTOMETRIC)
        raise InputError(
            f"X-ray {path} has a photometric interpretation {shown}; export it as MONOCHROME2"
        )


def _log_exposure(values: np.ndarray, tags: Mapping[str, str], path: Path) -> np.ndarray:
    """Values that grow with attenuation; GDCM has inverted MONOCHROME1 already."""
    values = values.astype(np.float64)
    if tags.get("intensity") != "LIN":
        return values
    top = 2.0 ** _number(tags, "bits", path) - 1
    stored = top - values if tags["photometric"] == "MONOCHROME1" else values
    exposure = top - stored if tags.get("sign", "1") == "-1" else stored
    return -np.log(np.maximum(exposure, 1.0))


def _number(tags: Mapping[str, str], name: str, path: Path) -> float:
    try:
        return float(tags[name])
    except (KeyError, ValueError):
        fault = f"{name} ({_TAGS[name].replace('|', ',')}) is no number"
        raise InputError(f"X-ray {path}: {fault}; give a number") from None


def _pixel_spacing(tags: Mapping[str, str], path: Path) -> tuple[float, float] | None:
    """On the detector where it is told (ImagerPixelSpacing), else PixelSpacing."""
    text = tags.get("imager_spacing") or tags.get("pixel_spacing")
    if not text:
        return None
    try:
        rows, columns = (float(part) for part in text.split("\\"))
    except ValueError:
        fault = "has a pixel spacing that is not two numbers"
        raise InputError(f"X-ray {path} {fault}; give two numbers") from None
    return rows, columns


def _magnification(tags: Mapping[str, str], path: Path) -> float | None:
    if tags.get("magnification"):
        found = _number(tags, "magnification", path)
    elif tags.get("source_to_detector") and tags.get("source_to_patient"):
        patient = _number(tags, "source_to_patient", path)
        found = _number(tags, "source_to_detector", path) / patient if patient else 0.0
    else:
        return None
    if not 1 <= found < 3:
        raise InputError(f"X-ray {path} has magnification {found:g}; it lies in 1..3")
    return found


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


def _hung(values: np.ndarray, orientation: str, view: str, path: Path) -> np.ndarray:
    """The picture flipped to hang as a DRR is shown, by its PatientOrientation if it has one."""
    if not orientation:
        return values
    found, wanted = [part[:1] for part in orientation.split("\\")], _UPRIGHT[view]
    if len(found) != 2 or any(
        f not in (w, _OPPOSITE[w]) for f, w in zip(found, wanted, strict=True)
    ):
        shown = _shown(orientation, bool(_DIRECTIONS.fullmatch(orientation)))
        raise InputError(
            f"X-ray {path} has a PatientOrientation {shown}; turn it to {'/'.join(wanted)}"
        )
    steps = [1 if f == w else -1 for f, w in zip(found, wanted, strict=True)]
    return values[:: steps[1], :: steps[0]]
