"""The memory of a gradient, by hand, beside XLA's own, and for the paper's network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.diffusion.conditioning import Conditioning
from edm3d.diffusion.conv import conv3d_lax
from edm3d.diffusion.unet import UNet
from edm3d.training.costs import halo_bytes
from edm3d.training.memory import XLA_NEEDS, peak_bytes, tree_bytes
from edm3d.training.objective import Objective, abstract_params

WEIGHTS = jnp.zeros((64, 64))
X = jnp.zeros((1000, 64))
ONE = 4 * 1000 * 64  # bytes of an activation


def _chain(x, remat, layers=8):
    layer = lambda h: jnp.sin(h @ WEIGHTS) @ WEIGHTS  # noqa: E731
    layer = jax.checkpoint(layer) if remat else layer
    for _ in range(layers):
        x = layer(x)
    return x.sum()


def test_a_chain_holds_two_activations_a_layer_and_recomputed_one():
    forward = peak_bytes(lambda x: _chain(x, False), X)
    assert 2 * ONE <= forward <= 3 * ONE  # one layer at a time
    kept = peak_bytes(jax.grad(lambda x: _chain(x, False)), X)
    assert kept == pytest.approx(8 * ONE, abs=3 * ONE)  # the sines' arguments
    again = peak_bytes(jax.grad(lambda x: _chain(x, True)), X)
    assert again == pytest.approx(8 * ONE, abs=3 * ONE)  # each layer's input instead
    wide = lambda h: jnp.sin(jnp.sin(h @ WEIGHTS) @ WEIGHTS)  # noqa: E731
    twice = lambda x: wide(wide(wide(x))).sum()  # noqa: E731
    block = jax.checkpoint(wide)
    less = lambda x: block(block(block(x))).sum()  # noqa: E731
    assert peak_bytes(jax.grad(less), X) < peak_bytes(jax.grad(twice), X)


def test_what_is_fused_takes_no_memory():
    assert peak_bytes(lambda x: jnp.sum(jnp.sin(x * 2) + 1), X) == 4
    assert peak_bytes(lambda x: jnp.sin(x * 2) @ WEIGHTS, X) == 2 * ONE


def _objective(patch, **network):
    model = UNet(conv3=conv3d_lax, **network)
    objective = Objective(model, Conditioning((-1024.0, 1024.0), residual_scale=2.0))
    n = patch
    shapes = {name: ((1, n, n, n), np.int16) for name in ("prior_hu", "target_hu")}
    shapes |= {name: ((1, n, n), np.float32) for name in ("xray_pa", "xray_lat")}
    shapes |= {"ventilation": ((1, 6), np.float32)}
    shapes |= {name: ((1, 3), np.float32) for name in ("start", "volume_shape")}
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    rows = (batch, jax.ShapeDtypeStruct((1,), np.float32), keys)

    def gradient(params, *rows):
        return jax.grad(lambda p: objective.losses(p, *rows, train=True).sum())(params)

    return gradient, (abstract_params(objective), *rows)


def test_the_estimate_is_within_a_third_of_what_xla_takes():
    """Without remat, which XLA's CPU compiler undoes, so that it cannot be compared."""
    small = dict(channels=16, channel_mult=(1, 2), blocks=1, attention_levels=(), dropout=0.13)
    gradient, args = _objective(16, **small)
    compiled = jax.jit(gradient).lower(*args).compile()
    taken = compiled.memory_analysis()
    taken = taken.temp_size_in_bytes + taken.output_size_in_bytes
    estimate = peak_bytes(gradient, *args)
    assert estimate < taken < XLA_NEEDS * estimate


def test_the_paper_s_network_fits_three_patches_in_40_gb_with_recomputed_blocks():
    gradient, args = _objective(128, dtype=jnp.bfloat16, remat="blocks")
    patch = peak_bytes(gradient, *args)
    # the blocks' inputs alone are 5.3 GB in bf16, most of them at full resolution
    assert 5.3e9 < patch < 0.9 * 40e9 / (3 * XLA_NEEDS)


def test_bytes_of_a_tree_are_those_of_its_leaves():
    tree = {"a": jnp.zeros((3, 2)), "b": jax.ShapeDtypeStruct((5,), jnp.bfloat16)}
    assert tree_bytes(tree) == 24 + 10


def test_a_convolution_split_along_z_gets_a_plane_from_either_side():
    x, kernel = jnp.zeros((2, 8, 4, 4, 3)), jnp.zeros((3, 3, 3, 3, 5))
    planes = 2 * (4 * 2 * 4 * 4 * 3)
    assert halo_bytes(jax.make_jaxpr(conv3d_lax)(x, kernel).jaxpr) == planes
