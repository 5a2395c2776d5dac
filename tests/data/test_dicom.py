"""DICOM series: read whatever their order and coding, or refused for what is wrong with them."""

import random
import sys
import zlib

import numpy as np
import pytest

from edm3d.data.dicom import find_series, hounsfield
from edm3d.data.dicom_frames import frames_of
from edm3d.data.dicom_header import read_header
from edm3d.data.dicom_pixels import stored_frames
from edm3d.data.dicom_tags import DEFLATED
from edm3d.data.volumes import read_ct, read_grid, read_mask, same_grid, write_nifti
from edm3d.errors import InputError
from tests.data.dicom_phantoms import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    SERIES_UID,
    SHAPE,
    SPACING_ZYX,
    data_set,
    enhanced_fields,
    slice_fields,
    write_file,
    write_series,
)
from tests.data.phantoms import chest, settings, write_manifest

SPACING, ORIENTATION, POSITION, NUMBER = 0x00280030, 0x00200037, 0x00200032, 0x00200011
INTERCEPT, SLOPE, UID, TYPE = 0x00281052, 0x00281053, 0x0020000E, 0x00080008


def refusal(path, **options) -> str:
    """The one line of the refusal, which names the path."""
    with pytest.raises(InputError) as caught:
        read_ct(path, **options)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and SERIES_UID not in text
    return text


def changed(tag, vr, value, only=None):
    """A change of one field, of every slice or of the one numbered `only`."""
    return lambda z, fields: fields | ({tag: (vr, value)} if only in (None, z) else {})


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_series_reads_in_hu_and_place_in_every_native_syntax(tmp_path, syntax):
    big = syntax == BIG_ENDIAN

    def swap(_, fields):
        words = np.frombuffer(fields[0x7FE00010][1], "<u2")
        return fields | {0x7FE00010: ("OW", words.astype(">u2" if big else "<u2").tobytes())}

    hu = write_series(tmp_path / "s", change=swap, syntax=syntax)
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    np.testing.assert_allclose(volume.grid.spacing_zyx_mm, SPACING_ZYX)
    np.testing.assert_allclose(volume.grid.affine_lps[:3, 3], (-30, -20, 100))
    assert same_grid(read_grid(tmp_path / "s"), volume.grid, tolerance_mm=1e-9)


def test_order_comes_from_position_not_from_names_or_numbers(tmp_path):
    names = [f"{n:03d}" for n in range(SHAPE[0])]
    random.Random(3).shuffle(names)

    def renumber(z, fields):
        return fields | {0x00200013: ("IS", (7 * z) % 5)}

    hu = write_series(tmp_path / "s", change=renumber, names=lambda z: names[z])
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)


def test_a_prone_or_feet_first_series_lands_in_lps(tmp_path):
    hu = chest(SHAPE)

    def prone(z, fields):  # rows run to the right, columns to the front: x and y are flipped
        place = [-30 + 1.5 * (SHAPE[2] - 1), -20 + 2.0 * (SHAPE[1] - 1), 100 + 3.0 * z]
        return fields | {ORIENTATION: ("DS", [-1, 0, 0, 0, -1, 0]), POSITION: ("DS", place)}

    write_series(tmp_path / "s", hu[:, ::-1, ::-1], prone)
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    np.testing.assert_allclose(volume.grid.affine_lps[:3, 3], (-30, -20, 100))


def test_an_oblique_series_keeps_its_place(tmp_path):
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()

    def oblique(z, fields):
        place = turn @ [-30, -20, 100 + 3.0 * z]
        cosines = [*turn[:, 0], *turn[:, 1]]
        return fields | {
            POSITION: ("DS", [f"{v:.9f}" for v in place]),
            ORIENTATION: ("DS", [f"{v:.9f}" for v in cosines]),
        }

    hu = write_series(tmp_path / "s", change=oblique)
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    expected = turn @ np.diag([1.5, 2.0, 3.0])
    np.testing.assert_allclose(volume.grid.affine_lps[:3, :3], expected, atol=1e-7)


def test_slope_and_intercept_are_those_of_each_slice(tmp_path):
    def own(z, fields):
        plane = hu[z].astype(int)
        words = np.rint((plane + 1000 + z) / 0.5).astype("<u2").tobytes()
        own = {INTERCEPT: ("DS", -1000 - z), SLOPE: ("DS", 0.5), 0x7FE00010: ("OW", words)}
        return fields | own

    hu = chest(SHAPE).clip(-1000)
    write_series(tmp_path / "s", hu, own)
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)


@pytest.mark.parametrize(
    "kind, padding, limit", [("<u2", 63536, None), ("<i2", -2000, None), ("<i2", -2000, -1990)]
)
def test_padding_outside_the_field_of_view_becomes_air(tmp_path, kind, padding, limit):
    sign = "SS" if kind == "<i2" else "US"

    def pad(_, fields):
        words = np.frombuffer(fields[0x7FE00010][1], "<u2").astype(kind).reshape(SHAPE[1:])
        words[0], words[:, 0] = padding, limit or padding
        more = {0x00280120: (sign, padding), 0x00280103: ("US", int(kind == "<i2"))}
        more |= {0x00280121: (sign, limit)} if limit else {}
        return fields | more | {0x7FE00010: ("OW", words.tobytes())}

    hu = write_series(tmp_path / "s", change=pad)
    values = read_ct(tmp_path / "s").values
    assert np.all(values[:, 0] == -1024) and np.all(values[:, :, 0] == -1024)
    np.testing.assert_array_equal(values[:, 1:, 1:], hu[:, 1:, 1:])


def test_bits_above_those_stored_are_no_part_of_the_value(tmp_path):
    def overlay(z, fields):
        words = np.frombuffer(fields[0x7FE00010][1], "<u2") | np.uint16(0xF000 if z % 2 else 0)
        return fields | {
            0x00280101: ("US", 12),
            0x00280102: ("US", 11),
            0x7FE00010: ("OW", words.tobytes()),
        }

    hu = write_series(tmp_path / "s", change=overlay)
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)


def test_an_enhanced_ct_reads_like_its_slices(tmp_path):
    hu = chest(SHAPE)
    path = write_file(tmp_path / "enhanced.dcm", enhanced_fields(hu))
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.values, hu)
    np.testing.assert_allclose(volume.grid.spacing_zyx_mm, SPACING_ZYX)
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "one")
    np.testing.assert_array_equal(read_ct(tmp_path / "folder").values, hu)


def test_an_enhanced_ct_may_rescale_each_frame_for_itself(tmp_path):
    def own(z):
        values = {INTERCEPT: ("DS", -1024 + z), SLOPE: ("DS", 1), 0x00281054: ("LO", "HU")}
        return {0x00289145: ("SQ", [values])}

    hu = chest(SHAPE)
    path = write_file(tmp_path / "e.dcm", enhanced_fields(hu, rescale=own))
    np.testing.assert_array_equal(read_ct(path).values, hu + np.arange(SHAPE[0])[:, None, None])


@pytest.mark.parametrize(
    "group",
    [
        lambda z: {0x00209111: ("SQ", [{0x00209128: ("UL", 1 + z % 2)}])},
        lambda z: {0x00209253: ("SQ", [{0x00209245: ("FD", 10.0 * (z // 6))}])},
    ],
)
def test_an_enhanced_ct_of_several_phases_is_refused(tmp_path, group):
    path = write_file(tmp_path / "e.dcm", enhanced_fields(chest(SHAPE), phase=group))
    assert "mixes 2 phases" in refusal(path)


def test_an_enhanced_frame_that_is_a_map_or_not_hu_is_refused(tmp_path):
    def frame_type(z):
        word = "PERFUSION" if z == 5 else "VOLUME"
        return {0x00189329: ("SQ", [{0x00089007: ("CS", f"ORIGINAL\\PRIMARY\\{word}")}])}

    def other_unit(_):
        values = {INTERCEPT: ("DS", 0), SLOPE: ("DS", 1), 0x00281054: ("LO", "MGML")}
        return {0x00289145: ("SQ", [values])}

    path = tmp_path / "e.dcm"
    write_file(path, enhanced_fields(chest(SHAPE), type=frame_type))
    assert "derived map (PERFUSION)" in refusal(path)
    write_file(path, enhanced_fields(chest(SHAPE), unit=other_unit))
    assert "not HU" in refusal(path)
    write_file(path, enhanced_fields(chest(SHAPE)) | {0x52009230: ("SQ", [])})
    assert "describes 0" in refusal(path)


def test_several_series_are_listed_and_one_is_read_when_asked_for(tmp_path):
    first = write_series(tmp_path / "s")
    second = chest(SHAPE, seed=9)
    other = {UID: ("UI", SERIES_UID + ".77"), NUMBER: ("IS", 12)}
    write_series(tmp_path / "s", second, lambda _, f: f | other, names="b{}".format)
    text = refusal(tmp_path / "s")
    keys = {one.number: one.key for one in find_series(tmp_path / "s")}
    for number, key in keys.items():
        assert f"number {number}, key {key} (12 slices, 11 x 13 pixels of 2 x 1.5 mm)" in text
    np.testing.assert_array_equal(read_ct(tmp_path / "s", series="4").values, first)
    np.testing.assert_array_equal(read_ct(tmp_path / "s", series=keys[12]).values, second)
    assert read_grid(tmp_path / "s", series="12").shape_zyx == SHAPE
    assert "has 0 series '5' among 2" in refusal(tmp_path / "s", series="5")
    same = {UID: ("UI", SERIES_UID + ".78")}
    write_series(tmp_path / "s", second, lambda _, f: f | same, names="c{}".format)
    assert "has 2 series '4'" in refusal(tmp_path / "s", series="4")


def test_a_series_is_asked_of_dicom_only(tmp_path):
    (tmp_path / "ct.nii").write_bytes(bytes(352))
    assert "no DICOM" in refusal(tmp_path / "ct.nii", series="4")


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
    "number beyond": (changed(NUMBER, "IS", "1e999"), "series_number is too large"),
    "stored values": (lambda _, f: f | {INTERCEPT: ("DS", 0)}, "intercept"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_is_refused_for_what_is_wrong_with_it(tmp_path, fault):
    change, reason = FAULTS[fault]
    write_series(tmp_path / "s", change=change)
    assert reason in refusal(tmp_path / "s")


def test_rounded_positions_are_no_fault(tmp_path):
    hu = write_series(tmp_path / "s", change=at(lambda z: round(100 + 1.25 * z, 1)))
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    # 11 steps of 1.25 mm, both ends rounded by 0.05 mm at most.
    assert volume.grid.spacing_zyx_mm[0] == pytest.approx(1.25, abs=0.1 / 11)


def test_companions_are_passed_over_and_strangers_are_not(tmp_path):
    hu = write_series(tmp_path / "s", names="IM{}".format)
    for name in ("notes.txt", ".hidden", "DICOMDIR", "thumb.PNG"):
        (tmp_path / "s" / name).write_bytes(b"nothing")
    report = {0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.88.11"), 0x00080060: ("CS", "SR")}
    write_file(tmp_path / "s" / "report", report)  # an object without pixels is no image
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)
    (tmp_path / "s" / "IM3").write_bytes(b"")
    assert "IM3 is no readable DICOM (it has no DICM mark)" in refusal(tmp_path / "s")


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


def test_sequences_nested_without_end_are_refused(tmp_path):
    path = tmp_path / "deep.dcm"
    write_file(path, {})
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(path.read_bytes() + (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item) * 2000)
    assert "nested over 8 deep" in refusal(path)


@pytest.mark.parametrize("name", ["JPLL", "J2KR", "JLSL", "RLE"])
def test_four_compressed_codings_decode_to_the_pixels_that_gdcm_gives(real_data, name):
    import SimpleITK as sitk

    folder = real_data / "dicom" / "compressed_ct1"
    header = read_header(folder / f"CT1_{name}")
    hu = hounsfield(frames_of(header)[0], stored_frames(header)[0])
    first = read_header(folder / "CT1_RLE")
    np.testing.assert_array_equal(stored_frames(header), stored_frames(first))
    gdcm = sitk.ReadImage(str(folder / f"CT1_{name}"), imageIO="GDCMImageIO")
    values = sitk.GetArrayFromImage(gdcm)[0]
    padded = values == -2000 - 1024
    np.testing.assert_array_equal(hu, np.where(padded, -1024, values))
    assert padded.mean() > 0.1 and np.mean((hu > 0) & (hu < 80)) > 0.1  # soft tissue


def test_a_compressed_series_reads_like_the_native_one(tmp_path, real_data):
    """Twelve copies of a real compressed slice, moved along z by their header."""
    source = (real_data / "dicom/compressed_ct1/CT1_JPLL").read_bytes()
    place = b"-158.135803\\-179.035797\\-75.699997"
    assert source.count(place) == 1
    (tmp_path / "s").mkdir()
    for z in range(12):
        moved = place.replace(b"-75.699997", b"%010.5f" % (5.0 * z))
        (tmp_path / "s" / f"{z}").write_bytes(source.replace(place, moved))
    volume = read_ct(tmp_path / "s")
    assert volume.values.shape == (12, 512, 512) and volume.grid.spacing_zyx_mm[0] == 5.0
    assert np.all(volume.values == volume.values[0]) and volume.values.min() == -1024


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


def test_two_real_phases_in_one_folder_are_listed(tmp_path, real_data):
    for phase in (10, 60):
        for path in (real_data / f"dicom/popi_4dct_phase{phase}").iterdir():
            (tmp_path / path.name).symlink_to(path)
    assert "holds 2 series" in refusal(tmp_path)
    keys = [one.key for one in find_series(tmp_path)]
    lungs = [np.mean(read_ct(tmp_path, series=key).values < -500) for key in keys]
    assert lungs[0] != lungs[1]


HIDDEN = b"MARKNAME"


def nested(explicit: bool, defined: bool) -> bytes:
    """A private sequence that holds a name, as an element before the pixels."""
    name = b"\x10\0\x10\0" + (b"PN\x08\0" if explicit else b"\x08\0\0\0") + HIDDEN
    position = b"\x20\0\x32\0" + (b"DS\x06\0" if explicit else b"\x06\0\0\0") + b"9\\9\\9 "
    item = name + position
    size = (len(item)).to_bytes(4, "little") if defined else b"\xff\xff\xff\xff"
    body = b"\xfe\xff\x00\xe0" + size + item
    body += b"" if defined else b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    size = (len(body)).to_bytes(4, "little") if defined else b"\xff\xff\xff\xff"
    return b"\x41\0\x10\x10" + (b"SQ\0\0" if explicit else b"") + size + body


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("defined", [True, False])
def test_sequences_of_any_coding_are_stepped_over(tmp_path, syntax, defined):
    hu = write_series(tmp_path / "s", syntax=syntax)
    for path in (tmp_path / "s").iterdir():
        data = path.read_bytes()
        place = data.index(b"\xe0\x7f\x10\0")
        inserted = nested(syntax == EXPLICIT, defined)
        path.write_bytes(data[:place] + inserted + data[place:])
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    np.testing.assert_allclose(volume.grid.affine_lps[:3, 3], (-30, -20, 100))


def test_a_deflated_series_reads_and_a_broken_one_is_refused(tmp_path):
    def deflate(path) -> None:
        data = path.read_bytes()
        start = data.index(EXPLICIT.encode()) + len(EXPLICIT) + 1
        packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packed.compress(data[start:]) + packed.flush()
        meta = data_set({0x00020010: ("UI", DEFLATED)}, EXPLICIT)
        path.write_bytes(bytes(128) + b"DICM" + meta + body)

    hu = write_series(tmp_path / "s")
    for path in (tmp_path / "s").iterdir():
        deflate(path)
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)
    path = tmp_path / "s" / "003.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    assert "003.dcm is no readable DICOM" in refusal(tmp_path / "s")


def encapsulated(codes: list[bytes]) -> bytes:
    """The bytes of compressed pixels, one fragment a frame, after an empty table of offsets."""
    parts = b"".join(
        b"\xfe\xff\x00\xe0" + len(code).to_bytes(4, "little") + code for code in (b"", *codes)
    )
    head = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
    return head + parts + b"\xfe\xff\xdd\xe0\0\0\0\0"


def code_streams(folder, hu: np.ndarray) -> list[bytes]:
    """JPEG 2000 of every slice, stored as HU + 1024, as GDCM writes it."""
    import SimpleITK as sitk

    writer = sitk.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.SetFileName(str(folder / "one.dcm"))
    codes = []
    for plane in hu:
        writer.Execute(sitk.GetImageFromArray((plane[None].astype(int) + 1024).astype(np.uint16)))
        data = (folder / "one.dcm").read_bytes()
        codes.append(data[data.index(b"\xff\x4f\xff\x51") : data.rindex(b"\xfe\xff\xdd\xe0")])
    return codes


def write_compressed_frames(path, hu, codes) -> None:
    fields = enhanced_fields(hu)
    del fields[0x7FE00010]
    write_file(path, fields, "1.2.840.10008.1.2.4.90")
    path.write_bytes(path.read_bytes() + encapsulated(codes))


def test_a_compressed_enhanced_ct_reads_like_the_native_one(tmp_path):
    hu = chest((12, 64, 48))
    codes = code_streams(tmp_path, hu)
    write_compressed_frames(tmp_path / "e.dcm", hu, codes)
    np.testing.assert_array_equal(read_ct(tmp_path / "e.dcm").values, hu)


def test_code_streams_that_contradict_the_header_are_not_decoded(tmp_path):
    hu = chest((12, 64, 48))
    codes = code_streams(tmp_path, hu)
    bomb = codes[3][:8] + b"\0\0\xff\xff" * 2 + codes[3][16:]
    write_compressed_frames(tmp_path / "e.dcm", hu, [*codes[:3], bomb, *codes[4:]])
    assert "its code stream 65535 x 65535 x 1" in refusal(tmp_path / "e.dcm")
    write_compressed_frames(tmp_path / "e.dcm", hu, codes[:-1])
    assert "claims 12 frames and holds 11" in refusal(tmp_path / "e.dcm")
    cut = codes[3][:200] + bytes(len(codes[3]) - 200)
    write_compressed_frames(tmp_path / "e.dcm", hu, [*codes[:3], cut, *codes[4:]])
    refusal(tmp_path / "e.dcm")


def test_without_simpleitk_compressed_dicom_says_what_to_install(tmp_path, monkeypatch):
    hu = chest((12, 64, 48))
    write_compressed_frames(tmp_path / "e.dcm", hu, code_streams(tmp_path, hu))
    write_series(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert read_ct(tmp_path / "s").values.shape == SHAPE  # native pixels need nothing more
    with pytest.raises(InputError, match="pip install SimpleITK"):
        read_ct(tmp_path / "e.dcm")


def test_an_unread_transfer_syntax_says_how_to_decompress(tmp_path):
    hu = chest(SHAPE)
    fields = enhanced_fields(hu)
    write_file(tmp_path / "e.dcm", fields, "1.2.840.10008.1.2.4.50")
    assert "decompress it without loss" in refusal(tmp_path / "e.dcm")


def test_records_made_from_dicom_equal_those_from_its_nifti(tmp_path):
    from edm3d.data.cases import read_cases
    from edm3d.data.manifest import read_manifest
    from edm3d.data.records import write_records

    scans = {number: chest(SHAPE, seed=number) for number in (1, 2)}
    rows = {"dicom": [], "nifti": []}
    for number, hu in scans.items():
        own = {UID: ("UI", f"{SERIES_UID}.{number}"), NUMBER: ("IS", number)}
        write_series(tmp_path / "s", hu, lambda _, f, o=own: f | o, names=f"{number}_{{}}".format)
        grid = read_grid(tmp_path / "s", series=str(number))
        write_nifti(tmp_path / f"{number}.nii.gz", hu, grid)
        row = dict(subject="pig1", scan=f"s{number}", stage="early", position="supine")
        row |= dict(phase="expiration", peep_cmh2o=5 * number, tidal_volume_ml_kg=8, split="train")
        rows["dicom"].append(row | dict(ct="s", series=number))
        rows["nifti"].append(row | dict(ct=f"{number}.nii.gz"))
    cases = {}
    for name, table in rows.items():
        manifest = write_manifest(tmp_path, table, f"{name}.csv")
        write_records(read_manifest(manifest), tmp_path / name, settings(), seed=0)
        cases[name] = sorted(read_cases(tmp_path / name, "train"), key=lambda case: case.case_id)
    assert len(cases["dicom"]) == len(cases["nifti"]) == 2
    for one, other in zip(*cases.values(), strict=True):
        np.testing.assert_array_equal(one.prior_hu, other.prior_hu)
        np.testing.assert_array_equal(one.target_hu, other.target_hu)
        np.testing.assert_allclose(one.affine_lps, other.affine_lps, atol=1e-4)
