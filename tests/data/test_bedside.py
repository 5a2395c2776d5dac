import dataclasses

import numpy as np
import pytest

from edm3d.data.bedside import (
    Exposure,
    bedside_xray,
    draw_exposure,
    exposed,
    generator_of,
    turned,
)
from edm3d.data.projection import xray
from edm3d.data.xray_geometry import Bedside, Cone, Geometry
from tests.data.phantoms import chest

PERFECT = Exposure(5e4, 0.0, 35.0, 1.0, 0.0, (0.0, 0.0, 0.0))
NOISELESS = dataclasses.replace(PERFECT, photons=1e14)
GEOMETRIES = [
    Geometry(bedside=Bedside(seed=5)),
    Geometry(cone=Cone(1250.0, 1000.0, (150.0, 150.0), 2.5), bedside=Bedside(seed=5)),
]


def film(geometry, name="pa", case_id="pig1__a__b"):
    return bedside_xray(chest((24, 28, 30)), name, geometry, spacing_mm=4.0, case_id=case_id)


@pytest.mark.parametrize("pixel_mm", [1.0, 2.0, 4.0])
def test_noise_is_poisson_s_of_photons_counted_in_two_millimetre_bins(pixel_mm):
    """var(-log N) = 1 / mean N; 40 000 pixels give a variance to 0.7 %, 3 % are four of that."""
    image = np.full((200, 200), 2.0, np.float32)
    measured = exposed(image, PERFECT, np.random.default_rng(0), pixel_mm=pixel_mm)
    counts = 5e4 * (pixel_mm / 2.0) ** 2 * np.exp(-2.0)
    assert measured.mean() == pytest.approx(2.0, abs=1e-3)
    assert measured.var() == pytest.approx(1 / counts, rel=0.03)


def test_scatter_adds_its_share_of_the_primary():
    image = np.full((60, 60), 4.0, np.float32)
    scattered = dataclasses.replace(NOISELESS, scatter_to_primary=1.5)
    measured = exposed(image, scattered, np.random.default_rng(0), pixel_mm=2.0)
    np.testing.assert_allclose(measured, 4 - np.log(1 + 1.5 * (1 - np.exp(-4))), atol=1e-4)


def test_scatter_is_as_wide_as_told_and_open_air_casts_none():
    image = np.zeros((201, 201), np.float32)
    scattered = dataclasses.replace(NOISELESS, scatter_to_primary=1.0, scatter_sigma_mm=30.0)
    np.testing.assert_allclose(
        exposed(image, scattered, np.random.default_rng(0), pixel_mm=2.0), 0, atol=1e-5
    )
    image[100, 100] = 1.0
    added = np.exp(-exposed(image, scattered, np.random.default_rng(0), pixel_mm=2.0)) - 1
    added[100, 100] = added[100, 99]
    offsets_mm = 2.0 * (np.arange(201) - 100)
    profile = added.sum(0)
    width = np.sqrt(np.sum(profile * offsets_mm**2) / profile.sum())
    assert width == pytest.approx(30.0, rel=0.05)  # the filter ends at four sigma


def test_gain_and_offset_are_of_the_line_integral():
    image = np.linspace(0, 4, 64, dtype=np.float32).reshape(8, 8)
    changed = dataclasses.replace(NOISELESS, gain=1.1, offset=-0.2)
    measured = exposed(image, changed, np.random.default_rng(0), pixel_mm=2.0)
    np.testing.assert_allclose(measured, 1.1 * image - 0.2, atol=1e-4)


def test_no_photon_counts_as_one():
    measured = exposed(np.full((4, 4), 50.0), PERFECT, np.random.default_rng(0), pixel_mm=2.0)
    np.testing.assert_allclose(measured, np.log(5e4), rtol=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_film_is_a_function_of_seed_case_and_view_alone(geometry):
    np.testing.assert_array_equal(film(geometry), film(geometry))
    other = dataclasses.replace(geometry, bedside=Bedside(seed=6))
    for changed in (film(other), film(geometry, case_id="pig1__b__a")):
        assert np.abs(changed - film(geometry)).mean() > 0.01


def test_each_image_draws_its_own():
    spec = Bedside(seed=1)
    draws = {
        draw_exposure(spec, generator_of(1, case, name))
        for case in ("a__b", "a__bb", "aa__b", "a__c")
        for name in ("pa", "lat")
    }
    assert len(draws) == 8


def test_draws_fill_their_ranges_and_stay_inside():
    spec = Bedside(seed=0)
    draws = [draw_exposure(spec, np.random.default_rng(i)) for i in range(300)]
    for name in ("photons", "scatter_to_primary", "scatter_sigma_mm", "gain", "offset"):
        low, high = getattr(spec, name)
        values = [getattr(d, name) for d in draws]
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high >= max(values) > high - 0.05 * (high - low)
    poses = np.array([d.pose_degrees for d in draws])
    assert np.all(np.abs(poses) <= 3) and np.all(np.abs(poses).max(0) > 2.8)
    assert np.all(poses.min(0) < -2.8)


@pytest.mark.parametrize("axis, planes", [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_a_turn_is_about_its_axis_by_its_degrees(axis, planes):
    hu = np.full((41, 41, 41), -1000, np.int16)
    point = [20, 20, 20]
    point[planes[0]] = 38
    hu[tuple(point)] = 20000
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 10.0
    mass = turned(hu, tuple(degrees)) + 1000.0
    mass[mass < 100] = 0  # air comes in at -1024
    moved = np.array([(mass * place).sum() for place in np.indices(hu.shape)]) / mass.sum() - 20
    angle = np.degrees(np.arctan2(moved[planes[1]], moved[planes[0]]))
    assert abs(angle) == pytest.approx(10.0, abs=1.0) and moved[axis] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("name", ["pa", "lat"])
def test_pose_jitter_moves_the_image(name):
    volume = chest((24, 28, 30))
    straight = xray(volume, name, Geometry(), spacing_mm=4.0)
    posed = xray(turned(volume, (3.0, 3.0, 3.0)), name, Geometry(), spacing_mm=4.0)
    assert np.abs(posed - straight).max() > 0.3
    same = xray(turned(volume, (0.0, 0.0, 0.0)), name, Geometry(), spacing_mm=4.0)
    np.testing.assert_allclose(same, straight, rtol=1e-5)


def test_the_table_stays_in_the_beam():
    volume = chest((24, 28, 30))
    table = volume.copy()
    table[:, -2:, :] = 300
    a, b = (
        bedside_xray(v, "pa", GEOMETRIES[0], spacing_mm=4.0, case_id="c") for v in (volume, table)
    )
    assert np.median(b - a) > 0.05  # 8 mm of bone, less what scatter veils
