"""FLOPs counted from a jaxpr are those of a hand count, of XLA, and of the paper's network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from edm3d.diffusion.conditioning import Conditioning
from edm3d.diffusion.conv import conv3d, conv3d_lax
from edm3d.diffusion.unet import UNet
from edm3d.training import costs
from edm3d.training.mesh import make_mesh
from edm3d.training.objective import Objective, abstract_params

X, KERNEL = jnp.zeros((2, 4, 4, 4, 3)), jnp.zeros((3, 3, 3, 3, 5))
CONVOLUTION = 2 * (2 * 4**3 * 5) * (27 * 3)
A, B = jnp.zeros((6, 4)), jnp.zeros((4, 4))
PRODUCT = 2 * 6 * 4 * 4


def _objective(**network):
    conditioning = Conditioning((-1024.0, 1024.0), residual_scale=2.0)
    return Objective(UNet(**network), conditioning)


def test_a_convolution_and_a_product_are_counted_as_by_hand():
    assert costs.flops(conv3d_lax)(X, KERNEL) == CONVOLUTION
    assert costs.flops(conv3d)(X, KERNEL) == CONVOLUTION  # the CPU's way is as much work
    assert costs.flops(jnp.matmul)(A, B) == PRODUCT


def test_a_gradient_costs_two_more_forward_passes_and_remat_a_third():
    def twice(a, b, policy):
        layer = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ b) @ b)) if policy else None
        layer = layer or (lambda x: jnp.sin(jnp.sin(x @ b) @ b))
        return layer(a).sum()

    forward = 2 * PRODUCT
    assert costs.flops(partial(twice, policy=False))(A, B) == forward
    gradient = jax.grad(twice, argnums=(0, 1))
    assert costs.flops(partial(gradient, policy=False))(A, B) == 3 * forward
    assert costs.flops(partial(gradient, policy=True))(A, B) == 4 * forward
    convolved = jax.grad(lambda x, kernel: conv3d(x, kernel).sum(), argnums=(0, 1))
    assert costs.flops(convolved)(X, KERNEL) == 3 * CONVOLUTION


def test_loops_count_their_rounds_and_devices_count_their_own_part():
    loop = lambda a, b: jax.lax.scan(lambda x, _: (x @ b, None), a, length=7)  # noqa: E731
    assert costs.flops(jax.jit(loop))(A, B) == 7 * PRODUCT
    mesh = make_mesh(devices=jax.devices()[:2])
    on_two = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    assert costs.flops(on_two)(A, B) == PRODUCT / 2
    unknown = lambda a, b: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ b, a)  # noqa: E731
    with pytest.raises(ValueError, match="unknown"):
        costs.flops(unknown)(A, B)


def test_the_count_is_xla_s_own():
    """XLA leaves padding out, and adds norms and activations: both are small in a wide network."""
    network = dict(channels=64, channel_mult=(1,), blocks=1, attention_levels=(), dropout=0.0)
    objective, n = _objective(**network), 16
    x = jax.ShapeDtypeStruct((1, n, n, n, 13), np.float32)
    model = costs.as_on_accelerators(objective).model
    forward = jax.jit(lambda p, *inputs: model.apply({"params": p}, *inputs))
    lowered = forward.lower(abstract_params(objective), x, jax.ShapeDtypeStruct((1,), np.float32))
    inside = ((3 * n - 2) / (3 * n)) ** 3  # the share of a convolution's taps not on padding
    counted = costs.forward_flops(objective, n)
    xla = lowered.cost_analysis()["flops"]
    assert inside * counted < xla < 1.03 * counted


def test_the_paper_s_network_takes_22_tflop_forward_and_66_a_training_patch():
    objective = _objective(dtype=jnp.bfloat16, remat="blocks")
    assert costs.forward_flops(objective, 128) == pytest.approx(22e12, rel=0.01)
    assert costs.training_flops(objective, 128) == pytest.approx(66e12, rel=0.01)
