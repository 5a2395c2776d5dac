"""The CPU's convolution is the library's."""

import jax
import numpy as np
import pytest

from edm3d.diffusion.conv import conv3d, conv3d_cpu, conv3d_lax

SHAPES = [(2, 6, 5, 4, 3, 7), (1, 1, 2, 3, 4, 4), (1, 4, 1, 1, 8, 2), (3, 4, 4, 4, 1, 1)]


def _operands(shape):
    b, z, y, x, i, o = shape
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (b, z, y, x, i)),
        jax.random.normal(keys[1], (3, 3, 3, i, o)),
        jax.random.normal(keys[2], (b, z, y, x, o)),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_cpu_convolution_and_its_gradients_equal_lax(shape):
    x, kernel, dy = _operands(shape)
    got, got_back = jax.vjp(conv3d_cpu, x, kernel)
    want, want_back = jax.vjp(conv3d_lax, x, kernel)
    # float32 sums of up to 27 * 8 products of unit numbers, in another order
    np.testing.assert_allclose(got, want, atol=3e-5)
    for g, w in zip(got_back(dy), want_back(dy), strict=True):
        np.testing.assert_allclose(g, w, atol=2e-4)


def test_the_platform_is_chosen_in_one_place():
    x, kernel, _ = _operands(SHAPES[0])
    text = jax.jit(conv3d).lower(x, kernel).as_text()
    assert ("custom" in jax.make_jaxpr(conv3d)(x, kernel).pretty_print()) == (
        jax.default_backend() == "cpu"
    )
    assert "convolution" in text
