import numpy as np
import pytest

from edm3d.data.projection import MU_WATER_PER_MM, line_integrals, mean_unit_attenuation
from tests.data.phantoms import chest

SPHERE_MM, ELLIPSOID_MM = (50.0, 50.0, 50.0), (70.0, 45.0, 60.0)  # semi-axes z, y, x
SUBVOXELS = 3


def pooled(values: np.ndarray) -> np.ndarray:
    """The mean of every `SUBVOXELS` neighbours along each axis."""
    for axis in range(values.ndim):
        shape = (*values.shape[:axis], -1, SUBVOXELS, *values.shape[axis + 1 :])
        values = values.reshape(shape).mean(axis=axis + 1)
    return values


def water_ellipsoid(semi_axes_mm, spacing_mm: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Water in vacuum, edge voxels filled by their share; and the subvoxel centres in mm."""
    counts = [int(np.ceil(2.2 * a / spacing_mm)) * SUBVOXELS for a in semi_axes_mm]
    places = [(np.arange(n) - (n - 1) / 2) * spacing_mm / SUBVOXELS for n in counts]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    a, b, c = semi_axes_mm
    inside = (z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 < 1
    return 1000.0 * (pooled(inside) - 1), places


def chord(semi_axis, u, a, v, b) -> np.ndarray:
    """Mean length inside the ellipsoid along `semi_axis`, by pixel of the (u, v) plane."""
    inside = 1 - (u[:, None] / a) ** 2 - (v[None, :] / b) ** 2
    return pooled(2 * semi_axis * np.sqrt(np.maximum(inside, 0)))


@pytest.mark.parametrize("semi_axes_mm", [SPHERE_MM, ELLIPSOID_MM])
@pytest.mark.parametrize("spacing_mm", [2.0, 4.0])
def test_spheres_and_ellipsoids_cast_their_chord_lengths(semi_axes_mm, spacing_mm):
    volume, (z, y, x) = water_ellipsoid(semi_axes_mm, spacing_mm)
    a, b, c = semi_axes_mm
    images = line_integrals(volume, spacing_mm=spacing_mm)
    exact = [chord(b, z, a, x, c), chord(c, z, a, y, b)]
    for image, length in zip(images, exact, strict=True):
        error = image / MU_WATER_PER_MM - length
        # The filled shares are thirds of a voxel: 0.2 mm at 2 mm, of a chord of 90 mm or more.
        assert np.sqrt(np.mean(error**2)) < 0.005 * length.max() * spacing_mm / 2
        assert image.sum() == pytest.approx(length.sum() * MU_WATER_PER_MM, rel=1e-3)


def test_both_views_hold_the_same_mass():
    pa, lat = line_integrals(chest((20, 24, 28)), spacing_mm=2.0)
    # float32 images: 1e-6 of the total.
    assert pa.sum(dtype=float) == pytest.approx(lat.sum(dtype=float), rel=1e-6)


def test_heart_on_the_left_lies_at_the_right_of_the_pa_image():
    volume = np.full((6, 8, 10), -1000, np.int16)  # x runs from the subject's right to its left
    volume[2, 1, 7] = 0
    pa, lat = line_integrals(volume, spacing_mm=1.0)
    assert np.argwhere(pa).tolist() == [[2, 7]] and np.argwhere(lat).tolist() == [[2, 1]]


def test_flipping_the_volume_flips_the_views():
    volume = chest((10, 12, 14))
    pa, lat = line_integrals(volume, spacing_mm=2.0)
    flipped_pa, flipped_lat = line_integrals(volume[::-1, ::-1, ::-1], spacing_mm=2.0)
    np.testing.assert_array_equal(flipped_pa, pa[::-1, ::-1])
    np.testing.assert_array_equal(flipped_lat, lat[::-1, ::-1])


def test_nothing_below_vacuum_and_no_overflow_in_int16():
    low = np.full((2, 3, 4), -1024, np.int16)
    assert line_integrals(low, spacing_mm=2.0)[0].max() == 0
    high = np.full((2, 3, 4), 32000, np.int16)
    pa, _ = line_integrals(high, spacing_mm=2.0, mu_water_per_mm=0.02)
    np.testing.assert_allclose(pa, 33 * 0.02 * 3 * 2, rtol=1e-6)


def test_mean_unit_attenuation_of_a_uniform_volume_is_its_unit_ct():
    volume = np.full((4, 5, 6), -300, np.int16)
    pa, lat = line_integrals(volume, spacing_mm=2.0, mu_water_per_mm=0.02)
    for image, count in ((pa, 5), (lat, 6)):
        unit = mean_unit_attenuation(image, path_mm=2.0 * count, mu_water_per_mm=0.02)
        np.testing.assert_allclose(unit, -300 / 1024, rtol=1e-5)
        assert unit.dtype == np.float32
