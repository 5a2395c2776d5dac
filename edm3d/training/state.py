"""One training step as a pure function: state, batch and key in, new state and measurements out.

Shapes: b batch, z y x voxels, k sigma bins. The equations are in `edm3d.diffusion.edm`; where the
arrays live is in `edm3d.training.mesh`.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import ndtri

from edm3d.diffusion import edm
from edm3d.diffusion.conditioning import Conditioning, condition_channels, scaled_residual
from edm3d.diffusion.unet import UNet

Array = jax.Array
Params = Any
Batch = dict[str, Array]
SIGMA_EDGES = (0.05, 0.2, 0.8, 3.2)  # bins of the loss by noise level: below, between, above
LITERAL_RAMP_SAMPLES = 10_000_000  # the learning-rate ramp of the EDM reference, in samples


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a run must remember; all of it is checkpointed."""

    step: Array
    params: Params
    ema: Params
    opt_state: optax.OptState
    skipped: Array  # steps left out because they were not finite
    skipped_in_a_row: Array


@dataclass(frozen=True)
class Objective:
    """The network and the distribution of noise levels it is trained on."""

    model: UNet
    conditioning: Conditioning
    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def network(self, params: Params, batch: Batch, dropout_key: Array | None = None) -> Callable:
        """F(scaled noisy x, c_noise), with its conditions bound from `batch`."""
        conditions = condition_channels(batch, self.conditioning)
        train = dropout_key is not None

        def apply(x: Array, c_noise: Array) -> Array:
            inputs = jnp.concatenate([x, conditions], axis=-1)
            rngs = {"dropout": dropout_key} if train else None
            return self.model.apply({"params": params}, inputs, c_noise, train, rngs=rngs)  # type: ignore[return-value]

        return apply

    def losses(self, params: Params, batch: Batch, sigma: Array, key: Array, train: bool) -> Array:
        """`[b]` weighted denoising losses at the noise levels `sigma [b]`."""
        noise_key, dropout_key = jax.random.split(key)
        network = self.network(params, batch, dropout_key if train else None)
        y = scaled_residual(batch, self.conditioning)
        return edm.denoising_loss(network, y, sigma, noise_key, sigma_data=self.sigma_data)


@dataclass(frozen=True)
class Ema:
    """Half-life of the averaged weights in samples, and its share of those seen that caps it."""

    half_life_samples: float = 500_000
    ramp: float = 0.05

    def decay(self, step: Array, batch_size: int) -> Array:
        """Weight of the old average at update `step` (the first is 0)."""
        seen = (step + 1) * float(batch_size)
        half_life = jnp.minimum(self.half_life_samples, self.ramp * seen)
        return 0.5 ** (batch_size / half_life)


def learning_rate(
    peak: float, ramp_updates: int, *, batch_size: int, paper_literal: bool
) -> Callable[[Any], Array]:
    """Rises linearly over `ramp_updates`, or over the reference's ten million samples."""
    ramp = LITERAL_RAMP_SAMPLES / batch_size if paper_literal else ramp_updates
    return lambda step: peak * jnp.minimum((step + 1) / max(ramp, 1), 1.0)


def init_state(
    key: Array, objective: Objective, optimizer: optax.GradientTransformation, batch: dict[str, Any]
) -> TrainState:
    """A fresh state; `batch` gives shapes only (trace it with `jax.eval_shape` for no memory)."""
    channels = 1 + len(objective.conditioning.channel_names)
    x = jnp.zeros((1, *batch["prior_hu"].shape[1:], channels))
    params = objective.model.init(key, x, jnp.zeros(1))["params"]
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, params, optimizer.init(params), zero, zero)


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema: Ema,
) -> tuple[TrainState, dict[str, Array]]:
    """The state after one update and what was measured; a non-finite step changes no weight.

    `key` is the run's; a step draws from `fold_in(key, step)`, so a resumed run draws the same.
    """
    b = batch["prior_hu"].shape[0]
    sigma_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
    sigma = edm.draw_sigma(sigma_key, b, p_mean=objective.p_mean, p_std=objective.p_std)

    def mean_loss(params: Params) -> tuple[Array, Array]:
        losses = objective.losses(params, batch, sigma, loss_key, train=True)
        return jnp.mean(losses), losses

    (loss, losses), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    gradient_norm = optax.tree.norm(gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = ema.decay(state.step, b)
    average = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.ema, params)

    finite = jnp.isfinite(loss + gradient_norm + optax.tree.norm(updates))
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)  # noqa: E731
    new_state = TrainState(
        step=state.step + 1,
        params=keep(params, state.params),
        ema=keep(average, state.ema),
        opt_state=keep(opt_state, state.opt_state),
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    sums, counts = by_sigma(losses, sigma)
    measured = {
        "loss": loss,
        "gradient_norm": gradient_norm,
        "sigma_loss_sum": sums,
        "sigma_count": counts,
        "skipped": new_state.skipped,
        "skipped_in_a_row": new_state.skipped_in_a_row,
    }
    return new_state, measured


def validation_losses(
    params: Params, batch: Batch, sigma: Array, keys: Array, *, objective: Objective
) -> Array:
    """`[b]` losses at `sigma [b]`; a row's noise is that of its own key in `keys [b]`."""

    def one(row: Batch, sigma: Array, key: Array) -> Array:
        alone = jax.tree.map(lambda a: a[None], row)
        return objective.losses(params, alone, sigma[None], key, train=False)[0]

    return jax.vmap(one)(batch, sigma, keys)


def validation_sigmas(count: int, *, p_mean: float, p_std: float) -> np.ndarray:
    """`[count]` rising noise levels, evenly spread quantiles of those of the training."""
    quantiles = (np.arange(count) + 0.5) / count
    return np.exp(p_mean + p_std * ndtri(quantiles)).astype(np.float32)


def by_sigma(losses: Array, sigma: Array) -> tuple[Array, Array]:
    """Sums `[k]` and counts `[k]` of the losses in the bins that `SIGMA_EDGES` separate."""
    bins = jnp.searchsorted(jnp.asarray(SIGMA_EDGES), sigma)
    member = jax.nn.one_hot(bins, len(SIGMA_EDGES) + 1)
    # 0 * NaN is NaN: a non-finite loss shows in its own bin only
    return jnp.where(member > 0, losses[:, None], 0).sum(0), member.sum(0)


def sigma_bin_names() -> list[str]:
    """How the bins of `by_sigma` are called in logs."""
    edges = ("0", *(f"{e:g}" for e in SIGMA_EDGES), "inf")
    return [f"{low}-{high}" for low, high in itertools.pairwise(edges)]


def parameter_count(params: Params) -> int:
    """Number of trained numbers; works on shapes as well."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
