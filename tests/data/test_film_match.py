"""Films of a phantom with known exposure and place: both are found again; others are refused."""

import numpy as np
import pytest
from scipy import ndimage

from edm3d.data.film_match import LOW_CORRELATION, match_film
from edm3d.data.projection import xray
from edm3d.data.radiograph import Film, read_radiograph
from edm3d.data.volumes import read_ct, resample, working_grid
from edm3d.data.xray_geometry import Cone, Geometry
from edm3d.errors import InputError
from tests.data.films import write_dicom
from tests.data.phantoms import chest

SPACING_MM = 4.0
VOLUME = chest((64, 56, 72))
CONE = Geometry(cone=Cone(1400.0, 1200.0, (330.0, 370.0), 4.0))
GEOMETRIES = [Geometry(), CONE]
both = pytest.mark.parametrize("geometry", GEOMETRIES, ids=["parallel", "cone"])


def drr_of(geometry, volume=VOLUME):
    return xray(volume, "pa", geometry, spacing_mm=SPACING_MM)


def film_pixels(image, *, oversampling=4, shift=(0, 0)):
    """The image as a finer film, first row on top, moved by `shift` film pixels (down, right)."""
    size = [n * oversampling for n in image.shape]
    places = [(np.arange(n) + 0.5) / oversampling - 0.5 for n in size]
    grid = np.meshgrid(*places, indexing="ij")
    fine = ndimage.map_coordinates(image, grid, order=1, mode="nearest")[::-1]
    return np.roll(fine, shift, (0, 1))


def film(values, spacing_mm=1.0, magnification=None):
    upright = np.ascontiguousarray(values[::-1], np.float32)
    return Film("film.dcm", upright, (spacing_mm, spacing_mm), magnification)


@both
@pytest.mark.parametrize("gain, gamma, offset", [(300, 1.0, 200), (150, 2.2, 0), (40, 0.5, 30)])
def test_gain_gamma_and_offset_of_log_exposure_are_found(tmp_path, geometry, gain, gamma, offset):
    """value = offset + gain x gamma x l, of 16 bit; the phantom is rendered to 1 %."""
    drr = drr_of(geometry)
    pixels = np.rint(offset + gain * gamma * film_pixels(drr)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", pixels, imager_spacing_mm=(1.0, 1.0))
    image, fit = match_film(read_radiograph(path, "pa"), drr, geometry, spacing_mm=SPACING_MM)
    assert fit.gain == pytest.approx(1 / (gain * gamma), rel=0.02)
    assert fit.offset == pytest.approx(-offset / (gain * gamma), abs=0.05)
    assert np.median(np.abs(image - drr)) < 0.02 * np.median(drr) and image.dtype == np.float32
    assert fit.shift_mm == (0, 0) and fit.covered == 1 and fit.correlation > 0.98


@both
def test_linear_exposure_with_a_contrast_is_found(tmp_path, geometry):
    """counts = I0 exp(-gamma l), of 16 bit."""
    drr, gamma = drr_of(geometry), 0.8
    pixels = np.rint(60000 * np.exp(-gamma * film_pixels(drr))).astype(np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", pixels, {"0028|1040": "LIN"}, imager_spacing_mm=(1.0, 1.0)
    )
    image, fit = match_film(read_radiograph(path, "pa"), drr, geometry, spacing_mm=SPACING_MM)
    assert fit.gain == pytest.approx(1 / gamma, rel=0.02)
    assert np.median(np.abs(image - drr)) < 0.02 * np.median(drr)


@both
@pytest.mark.parametrize("down, right", [(0, 24), (-16, 0), (20, -28)])
def test_a_shifted_film_is_moved_back(geometry, down, right):
    drr = drr_of(geometry)
    image, fit = match_film(
        film(film_pixels(drr, shift=(down, right))), drr, geometry, spacing_mm=SPACING_MM
    )
    assert fit.shift_mm == pytest.approx((down, -right), abs=1e-6)
    middle = tuple(slice(10, -10) for _ in range(2))
    assert np.median(np.abs(image - drr)[middle]) < 0.03 * np.median(drr[middle])


def test_gas_lost_since_the_prior_is_seen_on_the_matched_film():
    """Lungs at -500 HU instead of -700: the film keeps what it shows of that to 5 %."""
    drr = drr_of(Geometry())
    exact = drr_of(Geometry(), chest(VOLUME.shape, lung_hu=-500.0))
    image, _ = match_film(
        film(100 + 250 * film_pixels(exact)), drr, Geometry(), spacing_mm=SPACING_MM
    )
    lungs = exact - drr > 0.3
    found, shown = (np.mean(i[lungs] - drr[lungs]) for i in (image, exact))
    assert found == pytest.approx(shown, rel=0.05)


def test_detail_tells_another_subject_where_the_outline_does_not(real_data):
    folder = real_data / "real"
    scans = (folder / "popi_4dct_5mm" / "phase10.nii.gz", folder / "4dlung_P113_phase40/ct.nii.gz")
    cts = [read_ct(path) for path in scans]
    hu = [resample(ct, working_grid(ct.grid, SPACING_MM)) for ct in cts]
    drr, other = (drr_of(Geometry(), volume) for volume in hu)
    films = [film_pixels(drr), film_pixels(other)[:-80]]  # its CT reaches lower: beyond the search
    fits = [
        match_film(film(100 + 50 * i), drr, Geometry(), spacing_mm=SPACING_MM)[1] for i in films
    ]
    assert fits[0].detail_correlation > 0.99
    assert fits[1].correlation > LOW_CORRELATION and fits[1].detail_correlation < 0.55


def test_a_magnified_film_is_brought_to_the_grid_s_scale():
    drr = drr_of(Geometry())
    enlarged = film(film_pixels(drr), spacing_mm=1.25, magnification=1.25)
    image, fit = match_film(enlarged, drr, Geometry(), spacing_mm=SPACING_MM)
    assert fit.magnification == 1.25 and fit.magnification_is_from_header
    assert np.median(np.abs(image - drr)) < 0.02 * np.median(drr)
    plain = film(film_pixels(drr), spacing_mm=1.25)
    _, unscaled = match_film(plain, drr, Geometry(), spacing_mm=SPACING_MM)
    assert not unscaled.magnification_is_from_header and unscaled.correlation < fit.correlation


def test_where_the_film_ends_the_prior_s_projection_stands():
    drr = drr_of(Geometry())
    narrow = film(50 + 100 * film_pixels(drr)[:, 40:-40])
    image, fit = match_film(narrow, drr, Geometry(), spacing_mm=SPACING_MM)
    np.testing.assert_array_equal(image[:, :8], drr[:, :8])
    assert fit.covered == pytest.approx(1 - 80 / 288, abs=0.02)


@pytest.mark.parametrize("view, position", [("pa", "AP"), ("lat", "RL")])
def test_a_film_shot_from_the_other_side_has_no_cone_beam(tmp_path, view, position):
    pixels = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)
    film = read_radiograph(write_dicom(tmp_path / "a.dcm", pixels, {"0018|5101": position}), view)
    with pytest.raises(InputError, match=r"a\.dcm is an AP or right lateral film.*'parallel'"):
        match_film(film, np.ones((10, 10), np.float32), CONE, spacing_mm=4.0)
    with pytest.raises(InputError, match="correlates"):  # in parallel beam it is looked at
        match_film(film, np.ones((10, 10), np.float32), Geometry(), spacing_mm=4.0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: -p, r"correlates -?0\.\d\d with the prior's projection, below 0.4"),
        (lambda p: np.random.default_rng(0).normal(size=p.shape), "correlates"),
        (lambda p: p[100:140, 100:140], "covers 2% of the prior's projection"),
    ],
)
def test_a_film_that_is_no_such_view_is_refused(change, message):
    drr = drr_of(Geometry())
    with pytest.raises(InputError, match=message) as caught:
        match_film(film(change(film_pixels(drr))), drr, Geometry(), spacing_mm=SPACING_MM)
    assert len(str(caught.value).splitlines()) == 1 and "film.dcm" in str(caught.value)


def test_a_film_that_fits_best_at_the_border_of_the_search_is_refused():
    drr = drr_of(Geometry())
    moved = film(film_pixels(drr, shift=(0, 60)))
    with pytest.raises(InputError, match="border of the search"):
        match_film(moved, drr, Geometry(), spacing_mm=SPACING_MM)


def test_a_film_against_the_projection_in_detail_is_refused(monkeypatch):
    drr = drr_of(Geometry())
    monkeypatch.setattr("edm3d.data.film_match._detail_correlation", lambda *_: -0.1)
    with pytest.raises(InputError, match=r"in detail -0\.10"):
        match_film(film(film_pixels(drr)), drr, Geometry(), spacing_mm=SPACING_MM)


@pytest.mark.parametrize("view", ["pa", "lat"])
def test_a_real_breath_is_seen_through_an_uncalibrated_film(real_data, view):
    """Film of full inspiration, prior of full expiration (one subject, one frame)."""
    folder = real_data / "real" / "popi_4dct_5mm"
    prior, target = (read_ct(folder / f"phase{phase}.nii.gz") for phase in ("60", "10"))
    grid = working_grid(prior.grid, SPACING_MM)
    drr, exact = (
        xray(resample(ct, grid), view, Geometry(), spacing_mm=SPACING_MM) for ct in (prior, target)
    )
    image, fit = match_film(
        film(200 + 300 * film_pixels(exact)), drr, Geometry(), spacing_mm=SPACING_MM
    )
    assert 300 * fit.gain == pytest.approx(1, abs=0.04) and fit.correlation > 0.95
    assert np.max(np.abs(fit.shift_mm)) <= 4.0  # a pixel: the diaphragm draws it along
    body = drr > 0.5
    assert np.median(np.abs(image - exact)[body]) < 0.04 * np.median(exact[body])
