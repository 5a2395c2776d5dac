"""Whether a DICOM object without a size is no image, or an image that has lost its size.

Reports, structures and presentations lie beside images and are passed over. A slice without rows or
columns is not one of them: passed over, the end of a lung would be missing without a word. Source:
DICOM PS3.4, B.5 (SOP classes), PS3.3, C.7.3.1.1.1 (modalities). Read next: `edm3d.data.dicom`.
"""

from edm3d.data.dicom_frames import CT_CLASSES
from edm3d.data.dicom_header import Header

_CLASS = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = {  # classes
    *(_CLASS + end for end in ("66", "66.1", "66.2", "66.3", "67", "481.3", "481.5", "481.8")),
    "1.3.12.2.1107.5.9.1",  # Siemens' private "non-image"
}
# Waveforms, presentations, reports, encapsulated documents.
_NO_IMAGE_FAMILIES = tuple(_CLASS + start for start in ("9.", "11.", "88.", "104."))
_NO_IMAGE_MODALITIES = {
    *("SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "PLAN", "RTSTRUCT", "RTPLAN", "RTRECORD"),
    *("ECG", "HD", "RESP", "AU", "EPS"),
}


def missing_size(header: Header) -> str:
    """`rows`, `columns` or both where the header lacks them or has 0; empty for an image."""
    return " or ".join(name for name in ("rows", "columns") if not header.values.get(name))


def is_no_image(header: Header) -> bool:
    """Whether the object is of a class, or else of a modality, that has no pixels."""
    kind = "".join(header.values.get("sop_class") or [])
    if kind in CT_CLASSES:
        return False
    modality = "".join(header.values.get("modality") or [])
    listed = kind in _NO_IMAGES or kind.startswith(_NO_IMAGE_FAMILIES)
    return listed or modality in _NO_IMAGE_MODALITIES


def is_broken_image(header: Header) -> bool:
    """Whether an object without a size is an image whatever lies beside it: CT, pixels, a place."""
    kind = "".join(header.values.get("sop_class") or [])
    has_pixels = header.pixel_bytes != 0  # None: compressed
    return kind in CT_CLASSES or has_pixels or "position" in header.values


def lost_size(header: Header) -> str:
    """What an error says of an image without a size."""
    return (
        f"{header.path} has no {missing_size(header)}, but belongs to an image series; "
        "copy or export the file again"
    )
