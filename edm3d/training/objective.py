"""What is learnt: the network with its conditions, and its loss on a batch.

Shapes: b batch, z y x voxels. The equations are in `edm3d.diffusion.edm`; read next
`edm3d.training.state`, the update. All randomness is a sample's own, from one key a sample: neither
microbatches nor the number of devices change what is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from edm3d.diffusion import edm
from edm3d.diffusion.conditioning import Conditioning, condition_channels, scaled_residual
from edm3d.diffusion.unet import UNet, stride

Array = jax.Array
Params = Any
Batch = dict[str, Array]


@dataclass(frozen=True)
class Objective:
    """The network and the distribution of noise levels it is trained on."""

    model: UNet
    conditioning: Conditioning
    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def init(self, key: Array, side: int) -> Params:
        """Fresh parameters, float32; `side` is any that the network can halve at every level."""
        channels = 1 + len(self.conditioning.channel_names)
        x = jnp.zeros((1, side, side, side, channels))
        return self.model.init(key, x, jnp.zeros(1))["params"]

    def network(
        self, params: Params, batch: Batch, dropout_keys: Array | None = None
    ) -> Callable[[Array, Array], Array]:
        """F(scaled noisy x, c_noise), with its conditions bound from `batch`.

        `dropout_keys [b]` switch dropout on.
        """
        conditions = condition_channels(batch, self.conditioning)

        def apply(x: Array, c_noise: Array) -> Array:
            inputs = jnp.concatenate([x, conditions], axis=-1)
            return self.model.apply({"params": params}, inputs, c_noise, dropout_keys)  # type: ignore[return-value]

        return apply

    def draw_sigma(self, keys: Array) -> Array:
        """`[b]` noise levels for training, one from each of the keys `[b]`."""
        return edm.draw_sigma(keys, p_mean=self.p_mean, p_std=self.p_std)

    def losses(self, params: Params, batch: Batch, sigma: Array, keys: Array, train: bool) -> Array:
        """`[b]` weighted denoising losses at levels `sigma [b]`, with the noise of `keys [b]`."""
        noise_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        network = self.network(params, batch, dropout_keys if train else None)
        y = scaled_residual(batch, self.conditioning)
        return edm.denoising_loss(network, y, sigma, noise_keys, sigma_data=self.sigma_data)


def abstract_params(objective: Objective) -> Params:
    """Shapes of the network's parameters."""
    side = stride(len(objective.model.channel_mult))
    return jax.eval_shape(partial(objective.init, side=side), jax.random.key(0))
