"""The slices that a DICOM header describes, classic (one a file) or enhanced (many), and whether
they can be Hounsfield units of a chest at all.

Source: DICOM PS3.3, C.7.6 (image plane, pixels), C.8.2.1 (CT image), C.7.6.16 (functional groups),
C.8.15 (enhanced CT). Read next: `edm3d.data.dicom` (slices to a volume).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edm3d.data.dicom_header import Header
from edm3d.data.dicom_tags import BIG_ENDIAN
from edm3d.data.geometry import MAX_VOXELS
from edm3d.errors import InputError

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
}
_MODALITIES = {"MR", "PT", "NM", "US", "CR", "DX", "RF", "XA", "MG", "OT", "SC", "SEG", "RTDOSE"}
_GATING = ("respiratory_percent", "cardiac_percent")
_MAPS = {  # words of an image type whose values are not, or no longer, attenuation
    *("PERFUSION", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "PARAMETRIC", "MAP"),
    *("SUBTRACTION", "MIP", "MAX_IP", "MINIP", "MIN_IP", "PROJECTION IMAGE", "ENERGY_PROP_WT"),
    *("SCREEN SAVE", "VRT", "SSD", "DOSE", "IODINE", "MATERIAL_FRACTION", "EFF_ATOMIC_NUM"),
}
_COSINE_TOLERANCE = 1e-3
_MOST_PIXELS_A_SIDE = 4096


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: frame `index` of a file; directions `[2, 3]` run along a row and down a column.

    `spacing_mm` is that between columns, then between rows; `phase` holds what the header says of
    time and gating, to be compared only.
    """

    header: Header
    index: int
    position_mm: np.ndarray
    directions: np.ndarray
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    phase: tuple

    @property
    def shape(self) -> tuple[int, int]:
        return self.header.values["rows"], self.header.values["columns"]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(*self.directions)

    @property
    def name(self) -> str:
        frames = count_frames(self.header)
        return f"{self.header.path}" + (f" frame {self.index + 1}" if frames > 1 else "")


def count_frames(header: Header) -> int:
    """The number of frames that a header claims."""
    return int(min((header.values.get("frames") or [1.0])[0], 1e9))


def _refuse(header: Header, fault: str, mend: str) -> InputError:
    return InputError(f"{header.path} {fault}; {mend}")


def check_kind(header: Header) -> None:
    """Raises `InputError` for whatever is no grey CT slice: modality, colour, localiser, map."""
    values = header.values
    modality = "".join(values.get("modality") or [])
    if modality != "CT":
        shown = modality if modality in _MODALITIES else "not CT"
        raise _refuse(header, f"has modality {shown}", "give a CT series")
    if "".join(values.get("sop_class") or []) not in CT_CLASSES:
        raise _refuse(header, "is no CT image object", "give the images of a CT series")
    _check_image_type(header, values.get("image_type") or [])
    samples, grey = values.get("samples_per_pixel"), values.get("photometric") == ["MONOCHROME2"]
    if samples != 1 or not grey or values.get("pixel_presentation") == ["COLOR"]:
        fault = f"is a colour or inverted picture ({samples} samples a pixel)"
        raise _refuse(header, fault, "give grey CT slices (MONOCHROME2)")
    if "".join(values.get("lossy") or []) == "01":
        raise _refuse(header, "was compressed with loss, which changes HU", "give the original")


def _check_image_type(header: Header, words: list[str]) -> None:
    if "LOCALIZER" in (word.upper() for word in words):
        raise _refuse(header, "is a localiser (scout view)", "remove localisers from the series")
    found = [word.upper() for word in words if word.upper() in _MAPS]
    if found:
        fault = f"is a derived map ({' '.join(found)}), not attenuation"
        raise _refuse(header, fault, "give the original axial series")


def check_pixels(header: Header) -> None:
    """Raises `InputError` unless the claimed pixels are of a size and coding that is read."""
    values = header.values
    rows, columns, frames = values.get("rows"), values.get("columns"), count_frames(header)
    if not (rows and columns and frames >= 1):
        raise _refuse(header, "has no pixels (rows, columns or frames are 0)", "give CT slices")
    if rows * columns * frames > MAX_VOXELS or max(rows, columns) > _MOST_PIXELS_A_SIDE:
        fault = f"claims {frames} frames of {rows} x {columns} pixels"
        most = f"at most {_MOST_PIXELS_A_SIDE} a side and {MAX_VOXELS} in all are read"
        raise _refuse(header, fault, most + ": crop or resample it, or repair its header")
    check_coding(header)


def check_coding(header: Header) -> None:
    """Raises `InputError` for impossible bits, and for native pixels that the file cannot hold."""
    values = header.values
    pixels = (values.get("rows") or 0) * (values.get("columns") or 0) * count_frames(header)
    allocated, stored = values.get("bits_allocated"), values.get("bits_stored")
    high, signed = values.get("high_bit"), values.get("pixel_representation")
    bits = (1, stored or 0, 0 if high is None else high + 1, allocated or 0)
    if allocated not in (8, 16, 32) or signed not in (0, 1) or list(bits) != sorted(bits):
        fault = f"has bits allocated {allocated}, stored {stored}, high {high}, sign {signed}"
        raise _refuse(header, fault, "repair or export it again")
    claimed = pixels * allocated // 8
    there = header.size - header.pixel_offset
    if header.pixel_bytes is not None and (claimed > header.pixel_bytes or claimed > there):
        fault = f"breaks off (it claims {claimed} bytes of pixels and has {there})"
        raise _refuse(header, fault, "copy the file again")


def padding_of(header: Header) -> tuple[int, int] | None:
    """The lowest and highest stored value that mean "no measurement"; None where not told."""
    signed = header.values.get("pixel_representation") == 1
    order = ">" if header.syntax == BIG_ENDIAN else "<"
    found = []
    for name in ("padding", "padding_limit"):
        data = header.values.get(name) or b""
        code = {2: "h" if signed else "H", 4: "i" if signed else "I"}.get(len(data))
        if code:
            found.append(struct.unpack(order + code, data)[0])
    return (min(found), max(found)) if header.values.get("padding") and found else None


Field = Callable[[str, str], Any]  # sequence (empty for the top level) and name to value


def _vector(header: Header, where: str, value: Any, count: int) -> np.ndarray:
    if not isinstance(value, list) or len(value) != count:
        raise _refuse(header, f"lacks a usable {where}", "export the series again with geometry")
    if max(abs(number) for number in value) > 1e5:
        raise _refuse(header, f"has a {where} beyond 100 m", "repair its header")
    return np.array(value)


def _frame(header: Header, index: int, field: Field, phase: tuple) -> Frame:
    position = _vector(header, "position", field("plane_positions", "position"), 3)
    cosines = _vector(header, "orientation", field("plane_orientations", "orientation"), 6)
    directions = cosines.reshape(2, 3)
    off = np.abs(directions @ directions.T - np.eye(2)).max()
    if off > _COSINE_TOLERANCE:
        fault = f"has an orientation whose cosines are off by {off:.3g}"
        raise _refuse(header, fault, "repair its header")
    measures = field("pixel_measures", "pixel_spacing")
    down, across = _vector(header, "pixel spacing", measures, 2).tolist()
    if min(down, across) <= 0:
        raise _refuse(header, f"has pixel spacing {down:g} x {across:g} mm", "repair its header")
    slope, intercept = _rescale(header, field)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return Frame(header, index, position, directions, (across, down), slope, intercept, phase)


def _rescale(header: Header, field: Field) -> tuple[float, float]:
    slope, intercept = (field("value_transformations", name) for name in ("slope", "intercept"))
    if not (slope and intercept):
        fault = "has no rescale slope and intercept, so its values are not HU"
        raise _refuse(header, fault, "give the original series")
    kind = "".join(field("value_transformations", "rescale_type") or [])
    if kind not in ("", "HU", "HU_MOD", "US"):
        raise _refuse(header, "has a rescale type that is not HU", "give the original series")
    if not 0 < slope[0] < 1e4 or abs(intercept[0]) > 1e5:
        shown = f"slope {slope[0]:g} and intercept {intercept[0]:g}"
        raise _refuse(header, f"has {shown}, which cannot give HU", "repair its header")
    return slope[0], intercept[0]


def _classic(header: Header) -> list[Frame]:
    if count_frames(header) != 1:
        fault = f"has {count_frames(header)} frames without a place for each"
        raise _refuse(header, fault, "give single slices or enhanced CT")
    values = header.values
    temporal = tuple(values.get("temporal_position") or ())
    phase = (temporal, *map(values.get, ("temporal_index", *_GATING)))
    return [_frame(header, 0, lambda _, name: values.get(name), phase)]


def _enhanced(header: Header) -> list[Frame]:
    shared = (header.values.get("shared") or [{}])[0]
    own = header.values.get("per_frame") or []
    if len(own) != count_frames(header):
        fault = f"claims {count_frames(header)} frames and describes {len(own)}"
        raise _refuse(header, fault, "export it again")
    frames = []
    for index, group in enumerate(own):

        def field(sequence: str, name: str, group: dict = group) -> Any:
            items = group.get(sequence) or shared.get(sequence) or [{}]
            return items[0].get(name) if items else None

        _check_image_type(header, field("ct_frame_types", "frame_type") or [])
        phase = (
            field("frame_contents", "temporal_index"),
            field("respiratory_synchronizations", "respiratory_percent"),
            field("cardiac_synchronizations", "cardiac_percent"),
        )
        frames.append(_frame(header, index, field, phase))
    return frames


def frames_of(header: Header) -> list[Frame]:
    """The slices of one file; raises `InputError` for what cannot be read as HU."""
    check_kind(header)
    check_pixels(header)
    return _enhanced(header) if "per_frame" in header.values else _classic(header)
