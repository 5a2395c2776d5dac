"""ADM's blocks are what they are published to be, and work wherever DDPM++'s do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.diffusion.flavour import ADM, DDPMPP
from edm3d.diffusion.unet import Attention, Block, UNet, downsample
from edm3d.training.state import parameter_count
from tests.diffusion.test_unet import _inputs, _network, _params


def _block(features, channels, **fields):
    x, e = jnp.zeros((1, 4, 4, 4, channels)), jnp.zeros((1, 16))
    block = Block(features, flavour=ADM, **fields)
    return block, block.init(jax.random.key(1), x, e)["params"]


def test_a_fresh_block_is_its_skip():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 8))
    e = jax.random.normal(jax.random.key(1), (1, 16))
    block, params = _block(8, 8, attention=True)
    np.testing.assert_array_equal(block.apply({"params": params}, x, e), x)
    down, params = _block(8, 8, resample=downsample)
    assert "skip" not in params  # resampling alone needs no convolution
    np.testing.assert_array_equal(down.apply({"params": params}, x, e), downsample(x))
    assert "skip" in _block(16, 8)[1]


def test_the_noise_level_scales_and_shifts_after_the_norm():
    """With no weights but the embedding's, what conv1 sees is SiLU(norm(h) (1 + scale) + shift)."""
    block, params = _block(4, 4)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4, 4))
    centre = jnp.zeros((3, 3, 3, 4, 4)).at[1, 1, 1].set(jnp.eye(4))  # h passes as it is
    for name in ("conv0", "conv1"):
        params[name] = {"kernel": centre, "bias": jnp.zeros(4)}
    scale, shift = jnp.full(4, 0.5), jnp.full(4, -0.25)
    params["scale_shift"] = {
        "kernel": jnp.zeros((16, 8)),
        "bias": jnp.concatenate([scale, shift]),
    }
    got = block.apply({"params": params}, x, jnp.zeros((1, 16))) - x
    h = jax.nn.silu((x - x.mean()) / x.std())
    h = (h - h.mean()) / h.std()
    # the norms divide by sqrt(variance + 1e-5)
    np.testing.assert_allclose(got, jax.nn.silu(1.5 * h - 0.25), atol=1e-3)


def test_initial_weights_lie_within_one_by_root_fan_in():
    _, params = _block(16, 16, attention=True)
    for kernel in (params["conv0"]["kernel"], params["Attention_0"]["Conv_0"]["kernel"]):
        *size, fan_in, _ = kernel.shape
        limit = (fan_in * np.prod(size)) ** -0.5
        # 768 uniform draws at least: the largest comes within 2 % of the limit
        assert 0.98 * limit < float(jnp.abs(kernel).max()) <= 1.0001 * limit


@pytest.mark.parametrize(("channels", "heads"), [(64, 1), (48, 1), (128, 2), (192, 3), (200, 2)])
def test_heads_have_64_channels_where_these_divide(channels, heads):
    assert ADM.heads(channels) == heads and channels % heads == 0
    assert DDPMPP.heads(channels) == 1


def test_attention_of_several_heads_mixes_no_channels_of_different_heads():
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 2, 128))
    attention = Attention(flavour=ADM)
    params = attention.init(jax.random.key(1), x)["params"]
    params["Conv_1"]["kernel"] = jnp.eye(128).reshape(1, 1, 1, 128, 128)
    # queries of the second head alone
    params["Conv_0"]["bias"] = jnp.zeros(384).at[64:128].set(5.0)
    apply = lambda p: attention.apply({"params": p}, x)  # noqa: E731
    other = jax.tree.map(lambda a: a, params)
    other["Conv_0"] = dict(params["Conv_0"], bias=jnp.zeros(384))
    change = np.abs(np.asarray(apply(params) - apply(other)))
    assert change[..., 64:].max() > 1e-3
    np.testing.assert_array_equal(change[..., :64], 0)


def test_every_decoder_block_of_an_attending_level_attends(widths):
    network, (x, c_noise) = _network(widths, flavour=ADM, blocks=2), _inputs(widths)
    params = jax.eval_shape(network.init, jax.random.key(0), x, c_noise)["params"]
    attending = {name for name, block in params.items() if any("Attention" in k for k in block)}
    decoder = {f"dec1_block{k}" for k in range(3)}
    assert attending == {"enc1_block0", "enc1_block1", "mid0"} | decoder


def test_the_reference_s_preset_has_its_size_in_three_dimensions():
    """ADM's preset for ImageNet-64 has 296 M parameters in 2-D, most in 3 x 3 kernels."""
    network = UNet(192, (1, 2, 3, 4), 3, (1, 2, 3), flavour=ADM)
    x = jnp.zeros((1, 8, 8, 8, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1))["params"]
    cubes = [leaf for leaf in jax.tree.leaves(shapes) if leaf.shape[:3] == (3, 3, 3)]
    others = parameter_count(shapes) - parameter_count(cubes)
    flat = others + parameter_count(cubes) / 3
    # without class labels (1000 x 768) and with one channel in and out
    assert flat + 0.77e6 == pytest.approx(296e6, rel=0.005)


def test_a_fresh_network_answers_zero(widths):
    network, (x, c_noise) = _network(widths, flavour=ADM), _inputs(widths)
    last = jax.jit(lambda key: network.init(key, x, c_noise)["params"]["conv_out"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(last(jax.random.key(0))))


def test_bfloat16_stays_near_float32(widths):
    network, (x, c_noise) = _network(widths, flavour=ADM), _inputs(widths)
    params = _params(network, x, c_noise, scale=0.1)
    full = jax.jit(network.apply)(params, x, c_noise)
    half = jax.jit(_network(widths, flavour=ADM, dtype=jnp.bfloat16).apply)(params, x, c_noise)
    assert half.dtype == jnp.float32 and float(jnp.std(full)) > 0.01
    # eight bits of mantissa through a dozen layers
    assert float(jnp.std(half - full) / jnp.std(full)) < 0.05


def test_remat_keeps_less_of_adm_s_blocks(widths):
    """That it changes no gradient, `test_unet` shows: blocks are wrapped whole, of either kind."""
    x, c_noise = _inputs(widths)
    keys = jax.random.split(jax.random.key(5), 2)

    def kept_bytes(remat):
        network = _network(widths, flavour=ADM, dropout=0.2, remat=remat)
        params = jax.eval_shape(network.init, jax.random.key(0), x, c_noise)
        loss = lambda p: jnp.sum(network.apply(p, x, c_noise, keys) ** 2)  # noqa: E731
        backward = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    assert kept_bytes("blocks") < 0.8 * kept_bytes("none")
