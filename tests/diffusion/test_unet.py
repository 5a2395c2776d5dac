"""The network's parts keep what they must keep, and its precision is where it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from edm3d.diffusion.conv import conv3d_lax
from edm3d.diffusion.unet import (
    Attention,
    Block,
    Dropout,
    NormSiLU,
    UNet,
    downsample,
    group_count,
    sinusoid,
    stride,
    upsample,
)


def _network(widths, **changes):
    fields = dict(
        channels=widths.channels,
        channel_mult=widths.channel_mult,
        blocks=widths.blocks,
        attention_levels=widths.attention_levels,
    )
    return UNet(**{**fields, **changes})


def _inputs(widths):
    n = widths.patch
    x = jax.random.normal(jax.random.key(1), (2, n, n, n, 3))
    return x, jnp.array([-1.0, 0.5])


def _params(network, x, c_noise, scale=0.3):
    """Random parameters: at its initial scale of 1e-5 a branch could be wrong unseen."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, c_noise)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    drawn = [scale * jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)]
    return {"params": jax.tree.unflatten(tree, drawn)}


def test_constants_stay_constant_through_down_and_up():
    x = jnp.full((1, 8, 4, 6, 2), 3.25)
    np.testing.assert_array_equal(upsample(downsample(x)), x)


def test_down_undoes_up_and_keeps_the_mean():
    x = jax.random.normal(jax.random.key(0), (2, 4, 2, 6, 3))
    np.testing.assert_allclose(downsample(upsample(x)), x, atol=1e-6)
    np.testing.assert_allclose(downsample(x).mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)


def test_upsampling_repeats_neighbours():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2, 1)
    up = upsample(x)[0, ..., 0]
    np.testing.assert_array_equal(up[:2, 2:, :2], 2.0)
    np.testing.assert_array_equal(up[2:, :2, 2:], 5.0)


def test_a_block_whose_branch_is_silent_is_its_skip_times_root_half():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 8))
    block, e = Block(8), jnp.ones((1, 16))
    params = block.init(jax.random.key(1), x, e)["params"]
    params["conv1"] = jax.tree.map(jnp.zeros_like, params["conv1"])
    out = block.apply({"params": params}, x, e)
    np.testing.assert_allclose(out, x * 0.5**0.5, atol=1e-6)


def test_silent_attention_is_its_input_times_root_half():
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 2, 8))
    params = Attention().init(jax.random.key(1), x)["params"]
    params["Conv_1"] = jax.tree.map(jnp.zeros_like, params["Conv_1"])
    np.testing.assert_allclose(Attention().apply({"params": params}, x), x * 0.5**0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "scale"), [("conv0", 1.0), ("conv1", 1e-5), ("proj", 1e-5), ("qkv", 0.2**0.5)]
)
def test_initial_weights_are_xavier_uniform_at_the_published_scales(layer, scale):
    x = jnp.zeros((1, 2, 2, 2, 32))
    params = Block(32, attention=True).init(jax.random.key(1), x, jnp.zeros((1, 8)))
    params = params["params"]
    inner = {"qkv": "Conv_0", "proj": "Conv_1"}.get(layer)
    kernel = params["Attention_0"][inner]["kernel"] if inner else params[layer]["kernel"]
    *size, fan_in, fan_out = kernel.shape
    limit = scale * (6 / ((fan_in + fan_out) * np.prod(size))) ** 0.5
    # 1 000 to 28 000 uniform draws: the largest comes within 1 % of the limit
    assert 0.99 * limit < float(jnp.abs(kernel).max()) <= 1.0001 * limit


@pytest.mark.parametrize(("channels", "groups"), [(64, 16), (128, 32), (192, 32), (48, 12), (2, 1)])
def test_groups_have_at_least_four_channels_and_number_at_most_32(channels, groups):
    assert group_count(channels) == groups


def test_every_width_has_a_group_count_that_divides_it():
    assert all(channels % group_count(channels) == 0 for channels in range(1, 600))


def test_channels_of_other_groups_leave_a_group_alone():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 8))
    norm = NormSiLU()
    params = norm.init(jax.random.key(1), x)
    changed = norm.apply(params, x.at[..., 4:].multiply(7.0))
    np.testing.assert_allclose(changed[..., :4], norm.apply(params, x)[..., :4], atol=1e-6)


def test_stride_is_what_the_levels_halve():
    assert [stride(levels) for levels in (1, 3, 4)] == [1, 4, 8]


def test_a_fresh_network_answers_zero(widths):
    network, (x, c_noise) = _network(widths), _inputs(widths)
    params = jax.jit(network.init)(jax.random.key(0), x, c_noise)
    out = jax.jit(network.apply)(params, x, c_noise)
    assert out.shape == (*x.shape[:-1], 1)
    assert float(jnp.abs(out).max()) < 1e-3


def test_the_noise_level_reaches_the_output(widths):
    network, (x, c_noise) = _network(widths), _inputs(widths)
    params = _params(network, x, c_noise)
    apply = jax.jit(network.apply)
    change = apply(params, x, c_noise) - apply(params, x, c_noise + 0.5)
    assert float(jnp.abs(change).mean(axis=(1, 2, 3, 4)).min()) > 1e-4


def test_each_sample_stands_alone(widths):
    network, (x, c_noise) = _network(widths), _inputs(widths)
    params = _params(network, x, c_noise)
    apply = jax.jit(network.apply)
    whole, second = apply(params, x, c_noise), apply(params, x[1:], c_noise[1:])
    np.testing.assert_allclose(whole[1:], second, atol=1e-4)


def test_convolutions_by_cpu_and_by_lax_give_one_network(widths):
    x, c_noise = _inputs(widths)
    networks = [_network(widths), _network(widths, conv3=conv3d_lax)]
    params = _params(networks[0], x, c_noise)

    def loss(p, network):
        return jnp.sum(network.apply(p, x, c_noise) ** 2)

    (a, da), (b, db) = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, n) for n in networks
    )
    np.testing.assert_allclose(a, b, rtol=1e-4)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(db)))
    for ga, gb in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
        np.testing.assert_allclose(ga, gb, atol=1e-4 * float(norm))


@pytest.mark.parametrize("remat", ["blocks", "convolutions"])
def test_remat_changes_no_gradient_and_keeps_less(widths, remat):
    x, c_noise = _inputs(widths)
    keys = jax.random.split(jax.random.key(5), 2)  # dropout is drawn the same again
    params = _params(_network(widths), x, c_noise)

    def loss(network):
        return lambda p: jnp.sum(network.apply(p, x, c_noise, keys) ** 2)

    def kept_bytes(network):
        backward = jax.eval_shape(lambda p: jax.vjp(loss(network), p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    plain, less = (_network(widths, dropout=0.2, remat=r) for r in ("none", remat))
    assert kept_bytes(less) < 0.8 * kept_bytes(plain)
    expected, got = (jax.jit(jax.grad(loss(network)))(params) for network in (plain, less))
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(expected)))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(norm))


def test_bfloat16_keeps_float32_parameters_and_output(widths):
    network, (x, c_noise) = _network(widths, dtype=jnp.bfloat16), _inputs(widths)
    params = jax.eval_shape(network.init, jax.random.key(0), x, c_noise)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    random = _params(network, x, c_noise)
    half = jax.jit(network.apply)(random, x, c_noise)
    full = jax.jit(_network(widths).apply)(random, x, c_noise)
    assert half.dtype == jnp.float32
    # eight bits of mantissa through a dozen layers
    assert float(jnp.std(half - full) / jnp.std(full)) < 0.05


def test_group_norm_statistics_are_float32():
    # Around 256 bfloat16 counts in twos: statistics in bfloat16 would be off by far more than 2 %.
    x = (256 + 2 * jax.random.randint(jax.random.key(0), (1, 8, 8, 8, 4), 0, 4)).astype(
        jnp.bfloat16
    )
    norm = NormSiLU(jnp.bfloat16, silu=False)
    y = norm.apply(norm.init(jax.random.key(1), x), x).astype(jnp.float32)
    assert float(jnp.std(y)) == pytest.approx(1, abs=0.02)
    assert float(jnp.mean(y)) == pytest.approx(0, abs=0.02)


def test_attention_stands_where_it_should(widths):
    network, (x, c_noise) = _network(widths, blocks=2), _inputs(widths)
    params = jax.eval_shape(network.init, jax.random.key(0), x, c_noise)["params"]
    attending = {name for name, block in params.items() if any("Attention" in k for k in block)}
    assert attending == {"enc1_block0", "enc1_block1", "mid0", "dec1_block2"}


def test_dropout_acts_in_training_only_and_by_each_row_s_key(widths):
    network, (x, c_noise) = _network(widths, dropout=0.5), _inputs(widths)
    params = _params(network, x, c_noise)
    run = jax.jit(network.apply)
    plain = run(params, x, c_noise)
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = run(params, x, c_noise, keys)
    assert float(jnp.abs(dropped - plain).max()) > 1e-3
    other = run(params, x, c_noise, jnp.stack([keys[0], jax.random.key(9)]))
    np.testing.assert_allclose(other[0], dropped[0], atol=1e-5)
    assert float(jnp.abs(other[1] - dropped[1]).max()) > 1e-3


def test_dropout_keeps_its_share_and_the_mean_and_differs_by_layer():
    x, keys = jnp.ones((1, 32, 32, 32, 4)), jax.random.split(jax.random.key(0), 1)

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return Dropout(0.25, name="a")(x, keys), Dropout(0.25, name="b")(x, keys)

    a, b = Two().apply({}, x, keys)
    # 131 072 draws: the standard error of a share is 0.0012
    assert float((a == 0).mean()) == pytest.approx(0.25, abs=0.006)
    assert float(a.mean()) == pytest.approx(1, abs=0.01)
    assert float(((a == 0) & (b == 0)).mean()) == pytest.approx(0.0625, abs=0.004)


def test_sinusoid_tells_noise_levels_apart():
    levels = jnp.log(jnp.geomspace(0.002, 80, 50)) / 4
    e = sinusoid(levels, 64)
    distance = jnp.linalg.norm(e[1:] - e[:-1], axis=1)
    assert e.shape == (50, 64)
    assert float(distance.min()) > 0.05
