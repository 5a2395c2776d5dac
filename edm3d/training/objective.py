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
from edm3d.training.variation import draw_given, with_identity_pairs

Array = jax.Array
Params = Any
Batch = dict[str, Array]
NULL = "null_conditions"  # the learnt values of missing conditions, beside the network's parameters


@dataclass(frozen=True)
class Objective:
    """The network, the noise levels it is trained on, and what training varies by chance.

    Attributes:
        weight: of a squared error at a noise level; what is told of a loss has EDM's.
        condition_dropout: groups of conditions and the shares of samples that go without.
        identity_share: share of samples that become pairs without a change.
    """

    model: UNet
    conditioning: Conditioning
    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2
    weight: edm.Weight = edm.loss_weight
    condition_dropout: tuple[tuple[str, float], ...] = ()
    identity_share: float = 0.0

    def init(self, key: Array, side: int) -> Params:
        """Fresh parameters, float32; `side` is any that the network can halve at every level."""
        channels = 1 + len(self.conditioning.channel_names)
        x = jnp.zeros((1, side, side, side, channels))
        params = self.model.init(key, x, jnp.zeros(1))["params"]
        if n := self.conditioning.null_count:
            return {**params, NULL: jnp.zeros(n)}
        return params

    def network(
        self,
        params: Params,
        batch: Batch,
        dropout_keys: Array | None = None,
        *,
        given: Array | None = None,
    ) -> Callable[[Array, Array], Array]:
        """F(scaled noisy x, c_noise), with its conditions bound from `batch`.

        `dropout_keys [b]` switch dropout on. `given [b, g]` says which groups of conditions are
        there (`edm3d.diffusion.absence`); else the batch's own `given`, else all are.
        """
        given = batch.get("given") if given is None else given
        conditions = condition_channels(
            batch, self.conditioning, given=given, null=params.get(NULL)
        )
        weights = {name: leaf for name, leaf in params.items() if name != NULL}

        def apply(x: Array, c_noise: Array) -> Array:
            inputs = jnp.concatenate([x, conditions], axis=-1)
            return self.model.apply({"params": weights}, inputs, c_noise, dropout_keys)  # type: ignore[return-value]

        return apply

    def draw_sigma(self, keys: Array) -> Array:
        """`[b]` noise levels for training, one from each of the keys `[b]`."""
        return edm.draw_sigma(keys, p_mean=self.p_mean, p_std=self.p_std)

    def losses(self, params: Params, batch: Batch, sigma: Array, keys: Array, train: bool) -> Array:
        """`[b]` weighted denoising losses at levels `sigma [b]`, with the noise of `keys [b]`.

        Only with `train` are pairs and conditions varied, and does `weight` hold, else EDM's.
        """
        if train:
            batch = self._varied(batch, keys)
        noise_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        network = self.network(params, batch, dropout_keys if train else None)
        y = scaled_residual(batch, self.conditioning)
        weight = self.weight if train else edm.loss_weight
        return edm.denoising_loss(
            network, y, sigma, noise_keys, sigma_data=self.sigma_data, weight=weight
        )

    def in_edm_weight(self, losses: Array, sigma: Array) -> Array:
        """Training losses `[b]` with EDM's weight, so that runs of any weight can be compared."""
        if self.weight is edm.loss_weight:
            return losses
        ratio = edm.loss_weight(sigma, self.sigma_data) / self.weight(sigma, self.sigma_data)
        return losses * ratio

    def _varied(self, batch: Batch, keys: Array) -> Batch:
        if self.identity_share:
            batch = with_identity_pairs(batch, keys, self.identity_share)
        if self.condition_dropout:
            batch = {**batch, "given": draw_given(keys, dict(self.condition_dropout))}
        return batch


def abstract_params(objective: Objective) -> Params:
    """Shapes of the network's parameters."""
    side = stride(len(objective.model.channel_mult))
    return jax.eval_shape(partial(objective.init, side=side), jax.random.key(0))
