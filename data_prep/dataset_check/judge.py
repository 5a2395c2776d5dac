"""Which of a scan's numbers cannot be right, and what would mend them.

`fatal`: records of it would teach wrong geometry or HU. `warning`: look before you go on. The
bounds are wide: they hold for the shared human scans and for pigs of 25 to 40 kg.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_prep.dataset_check.measure import Measurement, Seen
from edm3d.data.manifest import POSITIONS, Scan

FATAL, WARNING = "fatal", "warning"

AIR_HU = (-1030.0, -930.0)  # a calibrated scanner, with scatter from a large body
AIR_FAR_HU = (-1100.0, -850.0)
TISSUE_HU = (0.0, 80.0)  # muscle, blood and liver, with or without contrast
TISSUE_FAR_HU = (-30.0, 130.0)
MASKED_SHARE = 0.1  # of voxels with exactly one value that is neither air nor padding
PADDING_SHARE = 0.6  # a round field of view in its square leaves 0.21
LUNG_HU = (-930.0, -200.0)
LUNG_ML = (300.0, 9000.0)
SMALLER_SIDE = 0.1  # of both: less is one lung, or one that was not found
SIDE_CM2, SIDE_FATAL_CM2 = 1.0, 5.0
END_CM2, END_FATAL_CM2 = 7.0, 20.0  # tips of the lower lobes often leave the scan
SPACING_MM = 6.5
OBLIQUE_DEG = 20.0
EXTENT_MM = (100.0, 700.0)
_SCALE = "check rescale slope and intercept"
COUCH_SURE, SPINE_SURE = 0.6, 0.1
MASK_DICE = 0.6  # far below what the classical mask misses of injured lung


@dataclass(frozen=True)
class Finding:
    """One fault: its level, its kind in a word, the rows of the manifest and what to do."""

    level: str
    kind: str
    rows: tuple[int, ...]
    where: str  # subject and scan, or the session
    message: str


def scan_name(scan: Scan) -> str:
    return f"{scan.subject}/{scan.scan}"


def findings_of(seen: Seen) -> list[Finding]:
    """All findings of one scan by itself."""
    if seen.measured is None:
        found = [(FATAL, "unreadable", line) for line in seen.fault.splitlines()]
    else:
        rules = (_grid, _values, _lungs, _field_of_view, _position, _mask)
        found = [item for rule in rules for item in rule(seen.measured, seen.scan)]
    scan = seen.scan
    return [Finding(level, kind, (scan.row,), scan_name(scan), text) for level, kind, text in found]


Found = Iterator[tuple[str, str, str]]  # level, kind, message


def _outside(value: float, low_high: Sequence[float]) -> bool:
    return not low_high[0] <= value <= low_high[1]


def _grid(m: Measurement, scan: Scan) -> Found:
    if max(m.spacing_zyx_mm) > SPACING_MM:
        shown = " x ".join(f"{s:.3g}" for s in m.spacing_zyx_mm)
        yield WARNING, "spacing", f"voxels are {shown} mm (z y x); vessels need 5 mm or finer"
    extent = [n * s for n, s in zip(m.shape_zyx, m.spacing_zyx_mm, strict=True)]
    if any(_outside(e, EXTENT_MM) for e in extent):
        shown = " x ".join(f"{e:.0f}" for e in extent)
        yield WARNING, "extent", f"the image is {shown} mm (z y x), unlike a chest; check spacing"
    if m.oblique_deg > OBLIQUE_DEG:
        yield (
            WARNING,
            "oblique",
            f"an axis is turned by {m.oblique_deg:.0f} degrees from the patient's; check affine",
        )
    if m.spine_side < -SPINE_SURE:
        yield (
            FATAL,
            "orientation",
            f"the spine lies in front (bone {-m.spine_side:.2f} half depths anterior): front and "
            "back are swapped: correct the affine, for prone scans the patient position",
        )


def _values(m: Measurement, scan: Scan) -> Found:
    if m.air_hu is not None and _outside(m.air_hu, AIR_HU):
        level = FATAL if _outside(m.air_hu, AIR_FAR_HU) else WARNING
        yield level, "air", f"air around the body is {m.air_hu:.0f} HU, not near -1000; {_SCALE}"
    if m.tissue_hu is None:
        yield FATAL, "tissue", f"no soft tissue between -50 and 250 HU; {_SCALE}"
    elif _outside(m.tissue_hu, TISSUE_HU):
        level = FATAL if _outside(m.tissue_hu, TISSUE_FAR_HU) else WARNING
        yield level, "tissue", f"soft tissue is {m.tissue_hu:.0f} HU, not 0..80; {_SCALE}"
    if m.common_share > MASKED_SHARE and _outside(m.common_hu, (-1024, -900)):
        yield (
            FATAL,
            "masked",
            f"{m.common_share:.0%} of voxels are exactly {m.common_hu:.0f} HU; if the background "
            "was masked, fill it with -1000, or X-rays see it as matter",
        )
    if m.padding_share > PADDING_SHARE:
        yield WARNING, "padding", f"{m.padding_share:.0%} of the image is padding (-1024 HU)"


def _lungs(m: Measurement, scan: Scan) -> Found:
    if m.lung_hu is None:
        yield FATAL, "lungs", "no lung is found in it; a chest with its air is needed"
        return
    if _outside(m.lung_hu, LUNG_HU):
        yield WARNING, "lung density", f"mean lung is {m.lung_hu:.0f} HU, outside -930..-200"
    if _outside(m.lung_ml, LUNG_ML):
        low, high = LUNG_ML
        yield WARNING, "lung volume", f"lungs are {m.lung_ml:.0f} ml, not {low:.0f}..{high:.0f}"
    if m.smaller_side is not None and m.smaller_side < SMALLER_SIDE:
        yield (
            FATAL,
            "one lung",
            f"{m.smaller_side:.0%} of the lung lies on one side of the midline; both lungs are "
            "needed, with the whole chest around them",
        )


def _field_of_view(m: Measurement, scan: Scan) -> Found:
    cut = {"lower end": m.bottom_cm2, "upper end": m.top_cm2}
    for name, area in cut.items():
        if area > END_CM2:
            level = FATAL if area > END_FATAL_CM2 else WARNING
            yield level, "field of view", f"{area:.0f} cm2 of lung touch the {name} of the scan"
    for name, area in m.side_cm2.items():
        if area > SIDE_CM2:
            level = FATAL if area > SIDE_FATAL_CM2 else WARNING
            yield level, "field of view", f"{area:.0f} cm2 of lung are cut by the {name} side"


def position_seen(m: Measurement) -> tuple[str, float]:
    """'supine' or 'prone' by the side of the couch with a confidence of 0..1, or 'unknown'."""
    sure = abs(m.couch_side)
    if sure < COUCH_SURE or not m.spine_side > SPINE_SURE:
        return "unknown", sure
    return ("supine" if m.couch_side > 0 else "prone"), sure


def _position(m: Measurement, scan: Scan) -> Found:
    if m.header_position not in (*POSITIONS, ""):
        yield (
            FATAL,
            "position",
            f"the header says {m.header_position} (lying on a side), the manifest {scan.position}; "
            f"only {' and '.join(POSITIONS)} scans are used: leave it out",
        )
    elif m.header_position not in (scan.position, ""):
        yield (
            FATAL,
            "position",
            f"the header says {m.header_position}, the manifest {scan.position}; correct one",
        )
    seen, sure = position_seen(m)
    if seen not in (scan.position, "unknown"):
        yield (
            WARNING,
            "position",
            f"the couch lies on the {seen} side (confidence {sure:.2f}), the manifest says "
            f"{scan.position}",
        )


def _mask(m: Measurement, scan: Scan) -> Found:
    if m.mask_fault:
        yield FATAL, "mask", m.mask_fault
    if m.mask_dice is not None and m.mask_dice < MASK_DICE:
        yield (
            WARNING,
            "mask",
            f"lung mask and thresholds agree badly (Dice {m.mask_dice:.2f}); is it another scan's?",
        )
