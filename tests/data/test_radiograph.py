import sys
import traceback

import nibabel
import numpy as np
import pytest

from edm3d.data.radiograph import read_radiograph
from edm3d.errors import InputError
from tests.data.films import ramp, write_dicom, write_picture
from tests.data.mutations import png_chunk

UP = slice(None, None, -1)  # a film's first row is the lowest one


def test_a_dicom_film_is_upright_with_its_detector_s_pixels(tmp_path):
    tags, spacing = {"0028|0030": "0.25\\0.33"}, (0.3, 0.4)
    path = write_dicom(tmp_path / "a.dcm", ramp(), tags, imager_spacing_mm=spacing)
    film = read_radiograph(path, "pa")
    np.testing.assert_array_equal(film.values, ramp()[UP])
    assert film.values.dtype == np.float32
    assert film.spacing_mm == (0.3, 0.4) and film.magnification is None


def test_a_given_pixel_size_leaves_the_file_s_own_alone(tmp_path):
    dicom = write_dicom(tmp_path / "a.dcm", ramp(), imager_spacing_mm=(0.3, 0.4))
    assert read_radiograph(dicom, "pa", pixel_mm=0.7).spacing_mm == (0.3, 0.4)
    nifti = write_picture(tmp_path / "a.nii.gz", ramp(), 0.6)
    assert read_radiograph(nifti, "pa", pixel_mm=0.7).spacing_mm == pytest.approx((0.6, 0.6))


def test_pixel_spacing_stands_in_for_the_detector_s(tmp_path):
    tags = {"0028|0030": "0.25\\0.33"}
    path = write_dicom(tmp_path / "a.dcm", ramp(), tags, imager_spacing_mm=None)
    film = read_radiograph(path, "pa")
    assert film.spacing_mm == (0.25, 0.33)


@pytest.mark.parametrize(
    "tags, magnification",
    [({"0018|1114": "1.2"}, 1.2), ({"0018|1110": "1500", "0018|1111": "1200"}, 1.25)],
)
def test_magnification_is_what_the_header_tells(tmp_path, tags, magnification):
    film = read_radiograph(write_dicom(tmp_path / "a.dcm", ramp(), tags), "pa")
    assert film.magnification == pytest.approx(magnification)


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
def test_monochrome1_is_the_inverse_of_monochrome2(tmp_path, dtype, top):
    pixels = ramp(top=200).astype(dtype)
    two = read_radiograph(write_dicom(tmp_path / "2.dcm", pixels), "pa").values
    one = read_radiograph(write_dicom(tmp_path / "1.dcm", pixels, monochrome1=True), "pa").values
    np.testing.assert_array_equal(one, top - two)


def test_linear_exposure_becomes_its_log_whatever_its_display(tmp_path):
    counts = 60 + ramp(top=60000 - 60)
    linear = {"0028|1040": "LIN"}
    for name, monochrome1 in (("2", False), ("1", True)):
        path = write_dicom(tmp_path / f"{name}.dcm", counts, linear, monochrome1=monochrome1)
        values = read_radiograph(path, "pa").values
        np.testing.assert_allclose(values, -np.log(counts.astype(float))[UP], rtol=1e-6)


@pytest.mark.parametrize(
    "view, orientation, rows, columns",
    [
        ("pa", "L\\F", 1, 1),
        ("pa", "R\\F", 1, -1),
        ("pa", "R\\H", -1, -1),
        ("lat", "P\\F", 1, 1),
        ("lat", "A\\F", 1, -1),
        ("lat", "PR\\FA", 1, 1),
    ],
)
def test_a_film_is_hung_by_its_patient_orientation(tmp_path, view, orientation, rows, columns):
    path = write_dicom(tmp_path / "a.dcm", ramp(), {"0020|0020": orientation})
    expected = ramp()[::rows, ::columns][UP]
    np.testing.assert_array_equal(read_radiograph(path, view).values, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_needs_a_pixel_size_and_nifti_has_one(tmp_path, dtype):
    pixels = ramp(top=200).astype(dtype)
    png = write_picture(tmp_path / "a.png", pixels)
    with pytest.raises(InputError, match=r"a.png states no pixel size; give xray_pa_pixel_mm"):
        read_radiograph(png, "pa")
    film = read_radiograph(png, "pa", pixel_mm=0.4)
    assert film.spacing_mm == (0.4, 0.4)
    np.testing.assert_array_equal(film.values, pixels[UP])
    nifti = read_radiograph(write_picture(tmp_path / "a.nii.gz", pixels, 0.6), "pa")
    assert nifti.spacing_mm == pytest.approx((0.6, 0.6))
    np.testing.assert_array_equal(nifti.values, pixels[UP])


@pytest.mark.parametrize(
    "tags, view, message",
    [
        ({"0008|0060": "CT"}, "pa", "modality 'CT'; give a radiograph"),
        ({"0018|5101": "LL"}, "pa", "ViewPosition 'LL'; give a frontal view"),
        ({"0018|5101": "PA"}, "lat", "ViewPosition 'PA'; give a lateral view"),
        ({"0028|0030": "0\\0"}, "pa", "0 x 0 mm; it lies in"),
        ({}, "pa", "states no pixel size"),
        ({"0028|0030": "0.2"}, "pa", "pixel spacing that is not two numbers; give two numbers"),
        ({"0028|0030": "1\\1", "0018|1114": "9"}, "pa", "magnification 9; it lies in 1..3"),
        (
            {"0028|0030": "1\\1", "0020|0020": "F\\L"},
            "pa",
            "PatientOrientation 'F\\\\L'; turn it to L/F",
        ),
    ],
)
def test_films_that_their_header_says_are_wrong_are_refused(tmp_path, tags, view, message):
    path = write_dicom(tmp_path / "a.dcm", ramp(), tags, imager_spacing_mm=None)
    with pytest.raises(InputError) as caught:
        read_radiograph(path, view)
    text = str(caught.value)
    assert str(path) in text and len(text.splitlines()) == 1
    assert message in text


SPACING, PHOTOMETRIC = "0028|0030", "0028|0004"
DISTANCES = {"0018|1110": "1500", "0018|1111": "1200"}


def with_name(path, tag):
    """A film with a person's name where `tag` holds its value."""
    marked, old = DISTANCES | {tag: "XXXXXXXX"}, b"XXXXXXXX"
    if tag == PHOTOMETRIC:  # ITK writes its own
        marked, old = {}, b"MONOCHROME2 "
    spacing = None if tag == SPACING else (0.5, 0.5)
    data = write_dicom(path, ramp(), marked, imager_spacing_mm=spacing).read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, b"DOE^JANE".ljust(len(old))))
    return path


NAMED = ("0008|0060", "0020|0020", "0018|1114", *DISTANCES, SPACING, PHOTOMETRIC)


@pytest.mark.parametrize("tag", NAMED)
def test_a_name_in_any_field_is_not_repeated_by_the_error(tmp_path, tag):
    with pytest.raises(InputError) as caught:
        read_radiograph(with_name(tmp_path / "a.dcm", tag), "pa")
    text = "".join(traceback.format_exception(caught.value))
    assert "DOE" not in text and "JANE" not in text
    assert len(str(caught.value).splitlines()) == 1


def bad_files(folder):
    """Name, file and what its error says."""
    folder.joinpath("folder.dcm").mkdir()
    (folder / "text.dcm").write_text("no picture")
    (folder / "torn.dcm").write_bytes(write_dicom(folder / "whole.dcm", ramp()).read_bytes()[:-900])
    (folder / "torn.nii.gz").write_bytes(b"\x1f\x8b\x08junk")
    grey = ramp(top=200).astype(np.uint8)
    write_picture(folder / "colour.png", np.stack([grey] * 3, -1))
    write_picture(folder / "stack.nii.gz", np.stack([grey] * 3))
    write_dicom(folder / "flat.dcm", np.full((40, 50), 7, np.uint16))
    nan = np.where(ramp() > 3990, np.nan, ramp()).astype(np.float32)
    write_picture(folder / "nan.nii.gz", nan)
    write_picture(folder / "thin.png", grey[:5])
    return {
        "absent.dcm": "does not exist",
        "folder.dcm": "is a folder",
        "text.dcm": "no DICOM, PNG or NIfTI",
        "torn.dcm": "claims 4000 bytes of pixels and has 3",
        "torn.nii.gz": "is not a readable NIfTI file",
        "colour.png": "3 components",
        "stack.nii.gz": "give one 2-D picture",
        "flat.dcm": "is 7 everywhere",
        "nan.nii.gz": "NaN or infinity",
        "thin.png": "give one 2-D picture",
    }


def test_files_that_are_no_film_are_one_line_each(tmp_path, capfd):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            read_radiograph(tmp_path / name, "pa", pixel_mm=0.5)
        text = str(caught.value)
        assert str(tmp_path / name) in text and len(text.splitlines()) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan, 1e30, -1e30])
def test_a_nifti_film_whose_values_begin_nowhere_is_one_line(tmp_path, offset):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(ramp().T, np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[108:112] = np.float32(offset).tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"not a readable NIfTI|breaks off") as caught:
        read_radiograph(path, "pa")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("scale", [(1, 0), (0.37, -11.3)])
@pytest.mark.parametrize("kind", ["<i2", ">u2", "<i4", ">f4", "<f8"])
def test_a_nifti_film_has_the_values_that_nibabel_scales(tmp_path, kind, scale):
    header = nibabel.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(kind)
    image = nibabel.Nifti1Image(ramp().T.astype(kind), np.eye(4), header)
    image.header.set_slope_inter(*scale)
    nibabel.save(image, tmp_path / "a.nii.gz")
    again = nibabel.nifti1.load(tmp_path / "a.nii.gz")
    film = read_radiograph(tmp_path / "a.nii.gz", "pa")
    expected = np.asarray(again.dataobj, np.float64).T[UP].astype(np.float32)
    np.testing.assert_array_equal(film.values, expected)


def test_a_nifti_film_of_no_pixel_size_is_not_taken_as_one_of_1_mm(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(ramp().T, np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[80:88] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(InputError, match="is 0 x 0 mm"):
        read_radiograph(path, "pa")


def test_values_beyond_float32_are_refused(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(ramp().T * 1e300, np.eye(4)), path)
    with pytest.raises(InputError, match="NaN or infinity"):
        read_radiograph(path, "pa")


def test_what_a_decoder_would_print_of_a_film_stays_unprinted(tmp_path, capfd):
    data = write_picture(tmp_path / "a.png", ramp()).read_bytes()
    odd = png_chunk((b"gAMA", bytes(4)))(data, np.random.default_rng(0))
    (tmp_path / "a.png").write_bytes(odd)
    film = read_radiograph(tmp_path / "a.png", "pa", pixel_mm=0.5)
    np.testing.assert_array_equal(film.values, ramp()[UP])
    assert capfd.readouterr() == ("", "")


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize("dtype", [RGB, np.complex64, np.complex128])
def test_a_nifti_film_of_colours_or_complex_numbers_is_refused(tmp_path, dtype):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 50), dtype), np.eye(4)), path)
    with pytest.raises(InputError, match="several components a pixel") as caught:
        read_radiograph(path, "pa")
    assert len(str(caught.value).splitlines()) == 1


def test_without_simpleitk_the_mend_is_named(tmp_path, monkeypatch):
    path = write_picture(tmp_path / "a.png", ramp())
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match="pip install SimpleITK"):
        read_radiograph(path, "pa")


def test_nothing_of_the_patient_is_kept(tmp_path):
    tags = {"0010|0010": "Doe^Jane", "0010|0020": "ID-4711", "0008|0080": "Some Hospital"}
    film = read_radiograph(write_dicom(tmp_path / "a.dcm", ramp(), tags), "pa")
    kept = repr({name: value for name, value in vars(film).items() if name != "values"})
    assert not any(secret in kept for secret in ("Doe", "4711", "Hospital"))


def test_the_two_tags_of_a_real_chest_film_make_it_its_own_inverse(real_data):
    folder = real_data / "dicom" / "cxr_monochrome"
    (fake,) = folder.glob("Fake*.dcm")
    (real,) = set(folder.glob("*.dcm")) - {fake}
    one, two = (read_radiograph(path, "pa") for path in (fake, real))
    np.testing.assert_array_equal(one.values, 255 - two.values)
    assert two.spacing_mm == (0.168, 0.168)
    rows, columns = two.values.shape
    spine = two.values[rows // 4 : rows // 2, columns // 2 - 20 : columns // 2 + 20]
    lung = two.values[rows // 2 : 2 * rows // 3, columns // 4 : columns // 4 + 40]
    assert spine.mean() > lung.mean() + 30  # bone is bright


def test_a_damaged_length_is_refused_before_anything_is_allocated(tmp_path):
    path = write_dicom(tmp_path / "film.dcm", ramp())
    data = bytearray(path.read_bytes())
    at = data.index(b"\x08\x00\x60\x00") + 4  # the modality's length in implicit VR
    data[at : at + 4] = (2**31 - 2).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="is no readable DICOM"):
        read_radiograph(path, "pa")
