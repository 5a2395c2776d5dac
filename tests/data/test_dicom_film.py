"""Pixels of DICOM films: what their bits mean, and that no header is believed beyond its file."""

import numpy as np
import pytest

from edm3d.data.radiograph import read_radiograph
from edm3d.errors import InputError
from tests.data.dicom_phantoms import write_file
from tests.data.films import explicit_film, ramp, write_dicom

UP = slice(None, None, -1)  # a film's first row is the lowest one
BITS, HIGH_BIT, PHOTOMETRIC = 0x00280101, 0x00280102, 0x00280004


def test_a_film_of_negative_values_is_inverted_in_their_range(tmp_path):
    pixels = ramp().astype(np.int16) - 1000
    fields = explicit_film(pixels, exposure="LOG ") | {PHOTOMETRIC: ("CS", "MONOCHROME1 ")}
    film = read_radiograph(write_file(tmp_path / "a.dcm", fields), "pa")
    np.testing.assert_array_equal(film.values, -1 - pixels[UP])


def test_bits_beside_those_stored_are_no_value(tmp_path):
    fields = explicit_film((ramp() << 4) | 7, exposure="LOG ")
    fields |= {BITS: ("US", 12), HIGH_BIT: ("US", 15)}
    film = read_radiograph(write_file(tmp_path / "a.dcm", fields), "pa")
    np.testing.assert_array_equal(film.values, ramp()[UP])


def test_linear_exposure_has_its_log_whatever_its_slope_and_display(tmp_path):
    rescale = {0x00281053: ("DS", 2)}
    for display in ("MONOCHROME1 ", "MONOCHROME2 "):
        fields = explicit_film(ramp()) | rescale | {PHOTOMETRIC: ("CS", display)}
        film = read_radiograph(write_file(tmp_path / "a.dcm", fields), "pa")
        expected = -np.log(np.maximum(ramp(), 1.0))
        np.testing.assert_allclose(film.values, expected[UP], rtol=1e-6)


def test_linear_exposure_that_falls_with_dose_is_turned_before_the_log(tmp_path):
    fields = explicit_film(ramp()) | {0x00281053: ("DS", 2), 0x00281041: ("SS", -1)}
    film = read_radiograph(write_file(tmp_path / "a.dcm", fields), "pa")
    np.testing.assert_allclose(film.values, -np.log(65535.0 - ramp())[UP], rtol=1e-6)


def test_linear_exposure_with_an_intercept_or_a_sign_is_refused(tmp_path):
    shifted = explicit_film(ramp()) | {0x00281052: ("DS", 50)}
    for fields in (shifted, explicit_film(ramp().astype(np.int16))):
        path = write_file(tmp_path / "a.dcm", fields)
        with pytest.raises(InputError, match=r"LIN.*intercept or signed"):
            read_radiograph(path, "pa")


def test_a_slope_that_overflows_is_refused_without_a_warning(tmp_path):
    fields = explicit_film(ramp(), exposure="LOG ") | {0x00281053: ("DS", "1e308")}
    with pytest.raises(InputError, match="holds NaN or infinity"):
        read_radiograph(write_file(tmp_path / "a.dcm", fields), "pa")


@pytest.mark.parametrize("view", ["pa", "lat"])
@pytest.mark.parametrize("position", ["LLD", "RLD", "LLO", "RLO", "DOE JOHN"])
def test_a_decubitus_oblique_or_unknown_view_is_refused(tmp_path, view, position):
    path = write_dicom(tmp_path / "a.dcm", ramp(), {"0018|5101": position})
    with pytest.raises(InputError, match="ViewPosition") as caught:
        read_radiograph(path, view)
    assert "DOE" not in str(caught.value)


def us(tag: str, value: int) -> bytes:
    """An element of group 0028 in explicit VR."""
    return bytes.fromhex("2800" + tag) + b"US\2\0" + value.to_bytes(2, "little")


CLAIMS = [
    (us("1000", 40), us("1000", 4000), "claims 400000 bytes of pixels and has 4000"),
    (us("0001", 16), us("0001", 32), "claims 8000 bytes of pixels and has 4000"),
    (us("0101", 16), us("0101", 0xFF00), "has bits allocated 16, stored 65280"),
    (us("0101", 16), us("0101", 16) * 2, "gives its bits_stored twice"),
]


@pytest.mark.parametrize("old, new, reason", CLAIMS)
def test_a_dicom_film_that_claims_what_it_does_not_hold_is_refused(tmp_path, old, new, reason):
    """GDCM would fill the rest of the picture with whatever lay in memory."""
    path = write_file(tmp_path / "a.dcm", explicit_film(ramp()))
    assert read_radiograph(path, "pa").values.shape == (40, 50)
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(InputError, match=reason):
        read_radiograph(path, "pa")


def test_what_lies_behind_the_pixels_is_not_read(tmp_path):
    """GDCM's own reader goes on and allocates whatever a damaged length there claims."""
    path = write_file(tmp_path / "a.dcm", explicit_film(ramp()))
    film = read_radiograph(path, "pa")
    path.write_bytes(path.read_bytes() + b"\xfc\xff\xfc\xffOB\0\0\xf0\xff\xff\x7f")
    np.testing.assert_array_equal(read_radiograph(path, "pa").values, film.values)


def test_a_compressed_film_that_claims_other_rows_than_its_code_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", ramp(64, 64), compressor="JPEG2000")
    np.testing.assert_array_equal(read_radiograph(path, "pa").values, ramp(64, 64)[UP])
    data = path.read_bytes()
    assert data.count(us("1000", 64)) == 1
    path.write_bytes(data.replace(us("1000", 64), us("1000", 80)))
    with pytest.raises(InputError, match="claims 80 x 64 pixels, its code stream 64 x 64 x 1"):
        read_radiograph(path, "pa")
