"""The device's projector: adjoint, in jit what the preparation made, patch by patch the whole."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.data.projection import xray
from edm3d.data.xray_geometry import MU_WATER_PER_MM, Cone, Geometry
from edm3d.diffusion.beam import VIEWS, attenuation
from edm3d.diffusion.projection import (
    Patch,
    back_project,
    back_project_parallel,
    mean_back_projection,
    project,
    project_parallel,
)

SHAPE = (14, 18, 22)
CONE = Cone(1100.0, 900.0, (50.0, 60.0), 2.0)
SIZE, BEAM = CONE.cells, CONE.beam(2.0)
WHOLE = Patch.whole(SHAPE)
both_views = pytest.mark.parametrize("name", VIEWS)


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dot(a, b):
    return float(np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64)))


@both_views
def test_back_projection_is_the_adjoint_of_projection(name):
    """<A x, y> = <x, A^T y>; both in float32, so to 1e-5 of the norms' product."""
    x, y = noise(SHAPE), noise(SIZE, 1)
    forward = jax.jit(partial(project, view=VIEWS[name], size=SIZE, beam=BEAM))(x)
    back = jax.jit(lambda y: back_project(y, VIEWS[name], WHOLE, beam=BEAM))(y)
    scale = np.linalg.norm(forward) * np.linalg.norm(y)
    assert abs(dot(forward, y) - dot(x, back)) < 1e-5 * scale
    (transposed,) = jax.linear_transpose(
        partial(project, view=VIEWS[name], size=SIZE, beam=BEAM), x
    )(y)
    np.testing.assert_allclose(back, transposed, rtol=1e-4, atol=1e-5)


@both_views
def test_parallel_back_projection_is_the_adjoint_too(name):
    view, x = VIEWS[name], noise(SHAPE)
    forward = project_parallel(jnp.asarray(x), view, 2.0)
    y = noise(forward.shape, 1)
    back = back_project_parallel(jnp.asarray(y), view, SHAPE, 2.0)
    scale = np.linalg.norm(forward) * np.linalg.norm(y)
    assert abs(dot(forward, y) - dot(x, back)) < 1e-5 * scale


@both_views
@pytest.mark.parametrize("cone", [None, CONE])
def test_a_drr_in_jit_equals_the_preparation_s(name, cone):
    hu = np.random.default_rng(0).integers(-1024, 2000, SHAPE).astype(np.int16)
    prepared = xray(hu, name, Geometry(cone=cone), spacing_mm=2.0)

    @jax.jit
    def drr(hu):
        mu = attenuation(hu, MU_WATER_PER_MM)
        if cone is None:
            return project_parallel(mu, VIEWS[name], 2.0)
        return project(mu, VIEWS[name], size=cone.cells, beam=cone.beam(2.0))

    # float32 weights and sums against float64: 2e-6 of the largest line integral
    np.testing.assert_allclose(drr(hu), prepared, atol=3e-6 * prepared.max())


@both_views
def test_gradients_of_a_data_term_are_back_projected_errors(name):
    x, y = noise(SHAPE), noise(SIZE, 1)
    forward = partial(project, view=VIEWS[name], size=SIZE, beam=BEAM)
    gradient = jax.jit(jax.grad(lambda x: 0.5 * jnp.sum((forward(x) - y) ** 2)))(x)
    expected = back_project(forward(x) - y, VIEWS[name], WHOLE, beam=BEAM)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


@both_views
@pytest.mark.parametrize("operator", [back_project, mean_back_projection])
def test_a_patch_sees_what_the_whole_volume_sees_there(name, operator):
    image, start, size = jnp.asarray(noise(SIZE)), (3, 5, 8), (8, 9, 10)
    patch = Patch(size, jnp.array(start, jnp.float32), jnp.array(SHAPE, jnp.float32))
    whole = operator(image, VIEWS[name], WHOLE, beam=BEAM)
    part = whole[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
    np.testing.assert_allclose(operator(image, VIEWS[name], patch, beam=BEAM), part, atol=1e-5)


@both_views
def test_the_parts_of_a_volume_project_to_the_whole(name):
    x, forward = noise(SHAPE), partial(project, view=VIEWS[name], size=SIZE, beam=BEAM)
    parts = 0
    for first in (0, 7):
        start = jnp.array([first, 0, 0], jnp.float32)
        patch = Patch((7, *SHAPE[1:]), start, jnp.array(SHAPE, jnp.float32))
        parts += forward(x[first : first + 7], patch=patch)
    np.testing.assert_allclose(parts, forward(x), atol=1e-4)


@both_views
def test_a_mean_back_projection_keeps_the_unit_at_every_depth(name):
    wide = jnp.full((100, 100), 0.7)
    back = mean_back_projection(wide, VIEWS[name], WHOLE, beam=BEAM)
    np.testing.assert_allclose(back, 0.7, rtol=1e-5)


@both_views
def test_a_cell_is_smeared_along_its_diverging_ray(name):
    """A cell off the centre is seen 1 / magnification as far off, less near the source.

    Shares of whole voxels place it to an eighth of one; over 80 mm of depth it moves by 1.8 mm.
    """
    view, image = VIEWS[name], np.zeros((40, 40), np.float32)
    image[32, 10] = 1
    shape = (41, 41, 41)
    back = view.planes(mean_back_projection(image, view, Patch.whole(shape), beam=BEAM))
    index = np.arange(41) - 20.0
    depth_mm = view.source_side * 2.0 * index
    scale = (900.0 - depth_mm) / 1100.0
    total = back.sum((1, 2))
    for axis, cell in ((2, 32), (1, 10)):
        place = back.sum(axis) @ index * 2.0 / total
        np.testing.assert_allclose(place, (cell - 19.5) * 2.0 * scale, atol=0.25)
