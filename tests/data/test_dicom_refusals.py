"""Series that are no chest CT or no even stack, refused for what is wrong and where."""

import numpy as np
import pytest

from edm3d.data.dicom import read_posture
from edm3d.data.volumes import read_ct, read_mask
from edm3d.errors import InputError
from tests.data.dicom_phantoms import (
    INTERCEPT,
    ORIENTATION,
    POSITION,
    SHAPE,
    SLOPE,
    SPACING,
    TYPE,
    refusal,
    slice_fields,
    write_file,
    write_series,
)
from tests.data.phantoms import chest

POSTURE = 0x00185100


def changed(tag, vr, value, only=None):
    """A change of one field, of every slice or of the one numbered `only`."""
    return lambda z, fields: fields | ({tag: (vr, value)} if only in (None, z) else {})


def tilt(z, fields):
    cosine, sine = np.cos(np.radians(14)), np.sin(np.radians(14))
    return fields | {ORIENTATION: ("DS", [1, 0, 0, 0, f"{cosine:.8f}", f"{-sine:.8f}"])}


def at(places):
    return lambda z, fields: fields | {POSITION: ("DS", [-30, -20, places(z)])}


FAULTS = {
    "gantry tilt": (tilt, "tilted gantry: slices step 14.0 degrees"),
    "missing": (lambda z, f: None if z in (4, 5) else f, "misses about 2 slices, between 109 and"),
    "two gaps": (lambda z, f: None if z in (3, 7) else f, "106 and 112, 118 and 124"),
    "duplicate": (at(lambda z: 100 + 3 * (z if z != 6 else 5)), "duplicate slices at 115 mm"),
    "uneven": (at(lambda z: 100 + 3 * z + (z == 6)), "uneven slice spacing, 2 to 4 mm, worst at"),
    "all twice": (at(lambda z: 100 + 3 * (z // 2)), "2 slices at each of 6 places: mixed phases"),
    "aside": (changed(POSITION, "DS", [-27, -20, 118], only=6), "lies 3 mm beside the line"),
    "phases": (lambda z, f: f | {0x00200100: ("IS", 1 + z // 6)}, "mixes 2 phases"),
    "gating": (lambda z, f: f | {0x00209245: ("FD", 10.0 * (z // 6))}, "mixes 2 phases"),
    "frames of reference": (
        lambda z, f: f | {0x00200052: ("UI", f"1.2.{z // 6}")},
        "another frame of reference",
    ),
    "few": (lambda z, f: f if z < 7 else None, "holds 7 slices"),
    "localiser": (
        changed(TYPE, "CS", "ORIGINAL\\PRIMARY\\LOCALIZER", only=3),
        "003.dcm is a localiser",
    ),
    "map": (changed(TYPE, "CS", "DERIVED\\SECONDARY\\AXIAL\\MIP"), "derived map (MIP)"),
    "mr": (changed(0x00080060, "CS", "MR"), "has modality MR"),
    "unknown modality": (changed(0x00080060, "CS", "ZZTOP"), "has modality not CT"),
    "class": (changed(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.7"), "no CT image object"),
    "rgb": (lambda _, f: f | {0x00280002: ("US", 3), 0x00280004: ("CS", "RGB")}, "colour"),
    "inverted": (changed(0x00280004, "CS", "MONOCHROME1"), "inverted"),
    "no intercept": (
        lambda _, f: {t: v for t, v in f.items() if t != INTERCEPT},
        "no rescale slope and intercept",
    ),
    "zero slope": (changed(SLOPE, "DS", 0), "slope 0"),
    "unit": (changed(0x00281054, "LO", "HOUNDS"), "not HU"),
    "no position": (lambda _, f: {t: v for t, v in f.items() if t != POSITION}, "lacks a usable"),
    "orientation": (changed(ORIENTATION, "DS", [1, 0, 0, 0, 0.5, 0]), "cosines are off"),
    "another size": (changed(0x00280011, "US", 9, only=2), "pixels, others (11, 13)"),
    "another spacing": (changed(SPACING, "DS", [2.0, 1.6], only=2), "pixel spacing (1.6, 2.0)"),
    "zero spacing": (changed(SPACING, "DS", [0, 1.5]), "pixel spacing 0 x 1.5"),
    "huge": (lambda _, f: f | {0x00280010: ("US", 65535), 0x00280011: ("US", 65535)}, "at most"),
    "many frames": (
        lambda _, f: f | {0x00280008: ("IS", 2), 0x7FE00010: ("OW", f[0x7FE00010][1] * 2)},
        "2 frames without a place",
    ),
    "frames beyond": (changed(0x00280008, "IS", 999999999), "at most"),
    "more rows": (changed(0x00280010, "US", 400), "breaks off"),
    "bits": (changed(0x00280101, "US", 17), "bits allocated 16, stored 17"),
    "lossy": (changed(0x00282110, "CS", "01"), "with loss"),
    "text for a number": (changed(SLOPE, "DS", "one"), "slope is no number"),
    "slope beyond": (changed(SLOPE, "DS", "1e999"), "slope is too large"),
    "two postures": (
        changed(POSTURE, "CS", "HFP", only=7),
        "007.dcm in {} has another patient position than the slices before it",
    ),
    "a posture for a name": (
        changed(POSTURE, "CS", "MARKNAME", only=0),
        "001.dcm in {} has another patient position",
    ),
    "stored values": (lambda _, f: f | {INTERCEPT: ("DS", 0)}, "intercept"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_is_refused_for_what_is_wrong_with_it(tmp_path, fault):
    change, reason = FAULTS[fault]
    write_series(tmp_path / "s", change=change)
    assert reason.replace("{}", str(tmp_path / "s")) in refusal(tmp_path / "s")


@pytest.mark.parametrize("silent", [(0,), (3, 4), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)])
def test_slices_that_are_silent_about_the_posture_lie_as_the_others_tell(tmp_path, silent):
    change = {z: {POSTURE: ("CS", "")} for z in silent}
    hu = write_series(tmp_path / "s", None, lambda z, f: f | change.get(z, {}))
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)
    assert read_posture(tmp_path / "s") == "supine"


def test_rounded_positions_are_no_fault(tmp_path):
    hu = write_series(tmp_path / "s", change=at(lambda z: round(100 + 1.25 * z, 1)))
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    # 11 steps of 1.25 mm, both ends rounded by 0.05 mm at most.
    assert volume.grid.spacing_zyx_mm[0] == pytest.approx(1.25, abs=0.1 / 11)


def test_one_classic_slice_and_a_mask_in_dicom_are_refused(tmp_path):
    path = write_file(tmp_path / "one.dcm", slice_fields(chest(SHAPE)[0], 0.0, 1))
    assert "folder of the whole series" in refusal(path)
    with pytest.raises(InputError, match="give labels as NIfTI"):
        read_mask(path)


def test_a_truncated_slice_is_refused_at_any_length(tmp_path):
    write_series(tmp_path / "s")
    path = tmp_path / "s" / "004.dcm"
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refusal(tmp_path / "s")


@pytest.mark.parametrize(
    "folder, reason",
    [
        ("bad_gantry_tilt", "tilted gantry: slices step 14.0 degrees off their normal"),
        ("bad_missing_slice", "misses about 1 slice, between 28.1075 and 38.1075 mm"),
        ("multiframe_enhanced_ct", "derived map (PERFUSION RCBF)"),
        ("cxr_monochrome", "modality CR"),
        ("compressed_ct1", "holds 2 series"),
    ],
)
def test_real_bad_series_are_refused_for_their_right_reason(real_data, folder, reason):
    assert reason in refusal(real_data / "dicom" / folder)
