"""DICOM series read in HU and place, whatever their order, scale, padding and kind."""

import os
import random

import numpy as np
import pytest

from edm3d.data.dicom import find_series, read_posture
from edm3d.data.volumes import read_ct, read_grid, same_grid, write_nifti
from tests.data.dicom_phantoms import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    INTERCEPT,
    NUMBER,
    ORIENTATION,
    POSITION,
    SERIES_UID,
    SHAPE,
    SLOPE,
    SPACING_ZYX,
    UID,
    enhanced_fields,
    refusal,
    write_file,
    write_series,
)
from tests.data.phantoms import chest, settings, write_manifest


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


def test_companions_are_passed_over_and_strangers_are_not(tmp_path):
    hu = write_series(tmp_path / "s", names="IM{}".format)
    for name in ("notes.txt", ".hidden", "DICOMDIR", "thumb.PNG"):
        (tmp_path / "s" / name).write_bytes(b"nothing")
    report = {0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.88.11"), 0x00080060: ("CS", "SR")}
    write_file(tmp_path / "s" / "report", report)  # an object without pixels is no image
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)
    (tmp_path / "s" / "IM3").write_bytes(b"")
    assert "IM3 is no readable DICOM (it has no DICM mark)" in refusal(tmp_path / "s")


def test_two_real_phases_in_one_folder_are_listed(tmp_path, real_data):
    for phase in (10, 60):
        for path in (real_data / f"dicom/popi_4dct_phase{phase}").iterdir():
            (tmp_path / path.name).symlink_to(path)
    assert "holds 2 series" in refusal(tmp_path)
    keys = [one.key for one in find_series(tmp_path)]
    lungs = [np.mean(read_ct(tmp_path, series=key).values < -500) for key in keys]
    assert lungs[0] != lungs[1]


def test_the_header_tells_how_the_subject_lies(tmp_path):
    for code, lies in (
        *(("HFS", "supine"), ("FFP", "prone"), ("AFP", "prone")),
        *(("HFDL", "left decubitus"), ("FFDR", "right decubitus")),
        *(("", None), ("S", None), ("XXS", None), ("HFD", None)),
    ):
        write_series(tmp_path / "s", change=lambda _, f, c=code: f | {0x00185100: ("CS", c)})
        assert read_posture(tmp_path / "s") == lies


def test_a_broken_link_or_a_pipe_among_the_slices_is_refused(tmp_path):
    write_series(tmp_path / "s")
    last = tmp_path / "s" / "011.dcm"
    last.rename(tmp_path / "moved")
    last.symlink_to(tmp_path / "nowhere")
    assert "011.dcm is no readable DICOM (No such file" in refusal(tmp_path / "s")
    last.unlink()
    os.mkfifo(last)
    assert "011.dcm is no readable DICOM (it is no plain file)" in refusal(tmp_path / "s")


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
