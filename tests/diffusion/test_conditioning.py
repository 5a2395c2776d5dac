"""Channels: what a patch sees is what the whole volume sees there; HU survive the round trip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.data.projection import (
    line_integrals,
    mean_unit_attenuation,
    ray_paths_mm,
    xray,
)
from edm3d.data.xray_geometry import MU_WATER_PER_MM, Cone, Geometry
from edm3d.diffusion.conditioning import (
    Conditioning,
    add_residual,
    condition_channels,
    scaled_residual,
    unit_ct,
)

SPEC = Conditioning((-1024.0, 1024.0), residual_scale=4.0, xray_difference=True)
SHAPE = (6, 8, 10)
CONE = Cone(1250.0, 1000.0, (40.0, 50.0), 2.5)


@pytest.fixture
def whole():
    rng = np.random.default_rng(0)
    z, y, x = SHAPE
    images = {"xray_pa": (z, x), "xray_lat": (z, y)}
    images |= {f"prior_{name}": size for name, size in images.items()}
    return {
        "prior_hu": rng.integers(-1024, 1024, (1, *SHAPE)).astype(np.int16),
        "target_hu": rng.integers(-1024, 1024, (1, *SHAPE)).astype(np.int16),
        **{name: rng.normal(size=(1, *size)).astype(np.float32) for name, size in images.items()},
        "ventilation": rng.uniform(-1, 1, (1, 6)).astype(np.float32),
        "start": np.zeros((1, 3), np.float32),
        "volume_shape": np.array([SHAPE], np.float32),
    }


def _crop(batch, start, size):
    z, y, x = (slice(a, a + size) for a in start)
    cut = dict(batch, start=np.array([start], np.float32))
    for name in ("prior_hu", "target_hu"):
        cut[name] = batch[name][:, z, y, x]
    for name in ("xray_pa", "prior_xray_pa"):
        cut[name] = batch[name][:, z, x]
    for name in ("xray_lat", "prior_xray_lat"):
        cut[name] = batch[name][:, z, y]
    return cut


def test_a_patch_sees_what_the_whole_volume_sees_there(whole):
    start = (2, 3, 5)
    all_channels = condition_channels(whole, SPEC)
    patch = condition_channels(_crop(whole, start, 4), SPEC)
    np.testing.assert_allclose(patch, all_channels[:, 2:6, 3:7, 5:9], atol=1e-6)


@pytest.fixture
def cone_beam(whole):
    images = ("film_pa", "film_lat", "prior_film_pa", "prior_film_lat")
    rng = np.random.default_rng(5)
    films = {name: rng.normal(size=(1, *CONE.cells)).astype(np.float32) for name in images}
    batch = {name: value for name, value in whole.items() if "xray" not in name}
    return batch | films | {"beam": np.array([CONE.beam(2.0)], np.float32)}


def test_a_patch_sees_what_the_whole_volume_sees_there_in_cone_beam(cone_beam):
    start = (2, 3, 4)
    part = tuple(slice(a, a + 4) for a in start)
    patch = dict(cone_beam, start=np.array([start], np.float32))
    for name in ("prior_hu", "target_hu"):
        patch[name] = cone_beam[name][:, *part]
    whole = jax.jit(condition_channels, static_argnums=1)(cone_beam, SPEC)
    seen = jax.jit(condition_channels, static_argnums=1)(patch, SPEC)
    np.testing.assert_allclose(seen, whole[:, *part], atol=1e-5)
    spread = np.ptp(np.asarray(whole[..., 1:5]), axis=(1, 2, 3))
    assert np.all(spread > 0.1)  # of images of noise: none of the four channels is flat


def test_every_row_of_a_batch_is_back_projected_by_its_own_beam(cone_beam):
    rows = [dict(cone_beam), {n: np.flip(v, 1) if v.ndim > 2 else v for n, v in cone_beam.items()}]
    rows[1]["beam"] = cone_beam["beam"] * np.array([1.1, 1, 1, 1], np.float32)
    batch = {n: np.concatenate([row[n] for row in rows]) for n in cone_beam}
    both = condition_channels(batch, SPEC)
    for i, row in enumerate(rows):
        np.testing.assert_allclose(both[i], condition_channels(row, SPEC)[0], atol=1e-5)


def test_films_of_a_uniform_volume_give_its_unit_ct_and_no_difference(cone_beam):
    hu, geometry = np.full(SHAPE, -300, np.int16), Geometry(cone=CONE)
    batch = dict(cone_beam, prior_hu=hu[None])
    wide = np.full((60, 60, 60), -300, np.int16)  # so that no ray passes at its side
    for view in ("pa", "lat"):
        image = xray(wide, view, geometry, spacing_mm=2.0)
        path = ray_paths_mm(view, geometry, volume_shape_zyx=wide.shape, spacing_mm=2.0)
        unit = mean_unit_attenuation(image, path_mm=path, mu_water_per_mm=MU_WATER_PER_MM)
        batch[f"film_{view}"] = batch[f"prior_film_{view}"] = unit[None]
    channels = np.asarray(condition_channels(batch, SPEC)[0])
    np.testing.assert_allclose(channels[..., 1:3], -300 / 1024, rtol=1e-4)
    np.testing.assert_allclose(channels[..., 3:5], 0, atol=1e-6)


def test_beyond_the_detector_there_is_vacuum_and_no_difference(cone_beam):
    far = dict(cone_beam, start=np.array([[0, 0, 500]], np.float32))
    channels = np.asarray(condition_channels(far, SPEC)[0])
    names = SPEC.channel_names
    np.testing.assert_allclose(channels[..., names.index("xray_pa")], -1000 / 1024)
    np.testing.assert_array_equal(channels[..., names.index("xray_difference_pa")], 0)


def test_every_named_channel_is_there(whole):
    for spec in (SPEC, Conditioning((-1024.0, 1024.0), 1.0, prior_ventilation=False)):
        channels = condition_channels(whole, spec)
        assert channels.shape == (1, *SHAPE, len(spec.channel_names))
    assert len(Conditioning((-1024.0, 1024.0), 1.0).channel_names) == 12


def test_coordinates_run_from_minus_one_to_one(whole):
    z, y, x = np.moveaxis(np.asarray(condition_channels(whole, SPEC)[0, ..., -3:]), -1, 0)
    for axis, c in enumerate((z, y, x)):
        ends = np.take(c, [0, -1], axis=axis)
        np.testing.assert_allclose(np.take(ends, 0, axis=axis), -1)
        np.testing.assert_allclose(np.take(ends, 1, axis=axis), 1)
        assert np.ptp(c, axis=axis).min() == pytest.approx(2)


def test_scalars_fill_their_own_channel(whole):
    channels = condition_channels(whole, SPEC)
    names = SPEC.channel_names
    order = ["peep", "tidal_volume", "phase", "prior_peep", "prior_tidal_volume", "prior_phase"]
    for value, name in zip(whole["ventilation"][0], order, strict=True):
        np.testing.assert_array_equal(channels[..., names.index(name)], value)


def test_back_projection_is_the_adjoint_of_projection(whole):
    """<A v, image> = <v, A^T image> for sums along y (PA) and x (lateral)."""
    v = np.random.default_rng(1).normal(size=SHAPE)
    channels = np.asarray(condition_channels(whole, SPEC)[0], np.float64)
    for name, axis in (("xray_pa", 1), ("xray_lat", 2)):
        back = channels[..., SPEC.channel_names.index(name)]
        forward = np.sum(v.sum(axis) * whole[name][0])
        assert np.sum(v * back) == pytest.approx(forward, rel=1e-5)


def test_the_difference_to_the_prior_is_in_units_of_the_residual(whole):
    """A residual that is constant along its rays equals its own back-projected difference."""
    rng = np.random.default_rng(3)
    prior = rng.integers(-900, 900, SHAPE).astype(np.int16)
    target = prior + rng.integers(-90, 90, (*SHAPE[:2], 1)).astype(np.int16)  # the same along x
    batch = dict(whole, prior_hu=prior[None], target_hu=target[None])
    for name, hu in (("xray_lat", target), ("prior_xray_lat", prior)):
        _, image = line_integrals(hu, spacing_mm=2.0)
        path_mm = 2.0 * SHAPE[2]
        units = mean_unit_attenuation(image, path_mm=path_mm, mu_water_per_mm=MU_WATER_PER_MM)
        batch[name] = units[None]
    channels = condition_channels(batch, SPEC)
    got = channels[..., SPEC.channel_names.index("xray_difference_lat")]
    np.testing.assert_allclose(got, scaled_residual(batch, SPEC)[..., 0], atol=2e-5)


def test_prior_plus_residual_is_the_target(whole):
    x = scaled_residual(whole, SPEC)
    hu = np.round(add_residual(whole["prior_hu"], x, SPEC))
    np.testing.assert_array_equal(hu.astype(np.int16), whole["target_hu"])


def test_hu_outside_the_window_are_clipped_and_never_scaled_by_volume():
    hu = jnp.array([-3000, -1024, 0, 512, 3071], jnp.int16)
    np.testing.assert_allclose(unit_ct(hu, (-1024.0, 1024.0)), [-1, -1, 0, 0.5, 1])


def test_generated_hu_stay_inside_the_window(whole):
    x = jnp.full((1, *SHAPE, 1), 100.0)
    assert float(add_residual(whole["prior_hu"], x, SPEC).max()) == 1024.0
