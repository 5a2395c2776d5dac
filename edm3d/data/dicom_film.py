"""Radiographs in DICOM (CR, DX): pixels as log exposure, upright, and what their header tells.

The pixels are decoded by `edm3d.data.dicom_pixels`, not by GDCM's reader of whole files, which
believes damaged lengths and fills up short pictures from memory. Source: DICOM PS3.3, C.8.11
(digital X-ray), C.7.6.1 (orientation), C.11.1 (rescale). Read next: `edm3d.data.radiograph`.
"""

import re

import numpy as np

from edm3d.data.dicom_frames import check_coding
from edm3d.data.dicom_header import Header
from edm3d.data.dicom_pixels import significant, stored_frames
from edm3d.errors import InputError

_MODALITIES = ("CR", "DX", "RG", "RF")
_POSITIONS = {"pa": ("PA", "AP"), "lat": ("LL", "RL", "LATERAL")}  # no decubitus, no oblique
_KNOWN_POSITIONS = (*_POSITIONS["pa"], *_POSITIONS["lat"], "LLD", "RLD", "LLO", "RLO")
_UPRIGHT = {"pa": ("L", "F"), "lat": ("P", "F")}  # where columns and rows of an image run to
_OPPOSITE = dict(zip("LRAPHF", "RLPAFH", strict=True))
# What an error may show of a header; any other text in it could be a patient's name.
_KNOWN_MODALITIES = (*_MODALITIES, "CT", "MR", "PT", "NM", "US", "MG", "IO", "PX", "XA", "OT", "SC")
_KNOWN_PHOTOMETRIC = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_DIRECTIONS = re.compile(r"[LRAPHF]{1,2}\\[LRAPHF]{1,2}")
_BRIGHT_AIR = "MONOCHROME1"


def _text(header: Header, name: str) -> str:
    return "\\".join(header.values.get(name) or []).upper()


def _shown(value: str, known: bool) -> str:
    return repr(value) if known else "that is not one of the accepted ones"


def check_film(header: Header, view: str) -> None:
    """Raises `InputError` unless the header tells of a grey radiograph of the view."""
    path, modality = header.path, _text(header, "modality")
    if modality not in _MODALITIES:
        shown = _shown(modality, modality in _KNOWN_MODALITIES)
        raise InputError(f"X-ray {path} has a modality {shown}; give a radiograph (CR or DX)")
    position = _text(header, "view_position")
    if position and position not in _POSITIONS[view]:
        shown = _shown(position, position in _KNOWN_POSITIONS)
        wanted = "frontal" if view == "pa" else "lateral"
        raise InputError(f"X-ray {path} has ViewPosition {shown}; give a {wanted} view")
    photometric = _text(header, "photometric")
    if photometric not in (_BRIGHT_AIR, "MONOCHROME2"):
        shown = _shown(photometric, photometric in _KNOWN_PHOTOMETRIC)
        raise InputError(
            f"X-ray {path} has a photometric interpretation {shown}; export it as MONOCHROME2"
        )


def film_pixels(header: Header, view: str) -> np.ndarray:
    """float64 `[row, column]` that grow with attenuation, hung as a DRR of the view is shown."""
    check_coding(header)
    (words,) = stored_frames(header, lossy=True)
    stored = significant(words, header).astype(np.float64)
    top = 2.0 ** header.values["bits_stored"] - 1
    if _text(header, "intensity_relationship") == "LIN":
        values = _log_exposure(stored, top, header)
    elif _text(header, "photometric") == _BRIGHT_AIR:
        signed = header.values["pixel_representation"]
        values = _rescaled((-1.0 if signed else top) - stored, header)
    else:
        values = _rescaled(stored, header)
    return _hung(values, header, view)


def _rescaled(stored: np.ndarray, header: Header) -> np.ndarray:
    slope, intercept = (header.values.get(name) for name in ("slope", "intercept"))
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are refused later
        return stored * (slope or [1.0])[0] + (intercept or [0.0])[0]


def _log_exposure(stored: np.ndarray, top: float, header: Header) -> np.ndarray:
    """-log of linear intensity, whatever its display; a sign of -1 says that it falls with dose.

    A rescale slope would only add a constant, which the match to a projection takes off; an
    intercept would bend the logarithm, and negative intensity has none: both are refused.
    """
    if any(header.values.get("intercept") or []) or header.values["pixel_representation"]:
        raise InputError(
            f"X-ray {header.path} has linear intensity (LIN) with a rescale intercept or signed "
            "pixels; export it as log exposure, or unsigned without an intercept"
        )
    falls = header.values.get("intensity_sign") == 0xFFFF  # -1 as a signed word
    return -np.log(np.maximum(top - stored if falls else stored, 1.0))


def _hung(values: np.ndarray, header: Header, view: str) -> np.ndarray:
    """The picture flipped to hang as a DRR is shown, by its PatientOrientation if it has one."""
    orientation = _text(header, "patient_orientation")
    if not orientation:
        return values
    found, wanted = [part[:1] for part in orientation.split("\\")], _UPRIGHT[view]
    if len(found) != 2 or any(
        f not in (w, _OPPOSITE[w]) for f, w in zip(found, wanted, strict=True)
    ):
        shown = _shown(orientation, bool(_DIRECTIONS.fullmatch(orientation)))
        raise InputError(
            f"X-ray {header.path} has a PatientOrientation {shown}; turn it to {'/'.join(wanted)}"
        )
    steps = [1 if f == w else -1 for f, w in zip(found, wanted, strict=True)]
    return values[:: steps[1], :: steps[0]]


def _number(header: Header, name: str) -> float:
    try:
        return float(_text(header, name))
    except ValueError:
        raise InputError(f"X-ray {header.path}: {name} is no number; give a number") from None


def film_spacing(header: Header) -> tuple[float, float] | None:
    """That of rows and columns on the detector (ImagerPixelSpacing), else PixelSpacing, if told."""
    parts = header.values.get("imager_spacing") or header.values.get("pixel_spacing")
    if not parts:
        return None
    try:
        rows, columns = map(float, parts)
    except ValueError:
        fault = "has a pixel spacing that is not two numbers"
        raise InputError(f"X-ray {header.path} {fault}; give two numbers") from None
    return rows, columns


def film_magnification(header: Header) -> float | None:
    """What the header tells of the subject's enlargement on the detector, if anything."""
    if _text(header, "magnification"):
        found = _number(header, "magnification")
    elif _text(header, "source_to_detector") and _text(header, "source_to_patient"):
        patient = _number(header, "source_to_patient")
        found = _number(header, "source_to_detector") / patient if patient else 0.0
    else:
        return None
    if not 1 <= found < 3:
        raise InputError(f"X-ray {header.path} has magnification {found:g}; it lies in 1..3")
    return found


def shines_from_other_side(header: Header) -> bool:
    """Whether ViewPosition tells of AP or right lateral, the reverse of the projections' beams.

    In parallel beam both give the same picture; in cone beam what is near the source is magnified.
    """
    return _text(header, "view_position") in ("AP", "RL")
