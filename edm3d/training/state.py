"""One training step as a pure function: state, batch and key in, new state and measurements out.

Shapes: b batch, z y x voxels. The loss is in `edm3d.training.objective`, the sharing out of its
gradient in `edm3d.training.gradient`; where the arrays live is in `edm3d.training.mesh`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from edm3d.training.gradient import Gradient
from edm3d.training.objective import Batch, Objective, Params

Array = jax.Array
MAIN = "main"  # the averaged weights that are validated, and sampled where no others are asked for
LITERAL_RAMP_SAMPLES = 10_000_000  # the learning-rate ramp of the EDM reference, in samples


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a run must remember; all of it is checkpointed."""

    step: Array
    params: Params
    ema: dict[str, Params]  # averages by name, one of them `MAIN`
    opt_state: optax.OptState
    skipped: Array  # steps left out because they were not finite
    skipped_in_a_row: Array


@dataclass(frozen=True)
class Ema:
    """Half-life of the averaged weights in samples, and its share of those seen that caps it."""

    half_life_samples: float = 500_000
    ramp: float = 0.05

    def half_life(self, step: Any, batch_size: int) -> Array:
        """Samples after which half of the average is new, at update `step` (the first is 0)."""
        seen = (step + 1) * float(batch_size)
        return jnp.minimum(self.half_life_samples, self.ramp * seen)

    def decay(self, step: Any, batch_size: int) -> Array:
        """Weight of the old average at update `step`."""
        return 0.5 ** (batch_size / self.half_life(step, batch_size))


def learning_rate(
    peak: float, ramp_updates: int, *, batch_size: int, paper_literal: bool
) -> Callable[[Any], Array]:
    """Rises linearly over `ramp_updates`, or over the reference's ten million samples."""
    ramp = LITERAL_RAMP_SAMPLES / batch_size if paper_literal else ramp_updates
    return lambda step: peak * jnp.minimum((step + 1) / max(ramp, 1), 1.0)


def init_state(
    key: Array,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    side: int,
    averages: tuple[str, ...] = (MAIN,),
) -> TrainState:
    """A fresh state; `side` is any that the network can halve at every level."""
    params = objective.init(key, side)
    zero = jnp.zeros((), jnp.int32)
    ema = {name: params for name in averages}
    return TrainState(zero, params, ema, optimizer.init(params), zero, zero)


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema: Mapping[str, Ema],
    gradient_of: Gradient,
) -> tuple[TrainState, dict[str, Array]]:
    """The state after one update and what was measured; a non-finite step changes no weight.

    `key` is the run's; a step draws from `fold_in(key, step)`, so a resumed run draws the same.
    """
    b = batch["prior_hu"].shape[0]
    keys = jax.random.split(jax.random.fold_in(key, state.step), b)
    sigma_keys, loss_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    sigma = objective.draw_sigma(sigma_keys)

    def losses_of(params: Params, rows: tuple[Batch, Array, Array]) -> Array:
        return objective.losses(params, *rows, train=True)

    losses, gradient = gradient_of(losses_of, state.params, (batch, sigma, loss_keys))
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = {
        name: _averaged(state.ema[name], params, length.decay(state.step, b))
        for name, length in ema.items()
    }

    loss, gradient_norm, update_norm = jnp.mean(losses), *map(optax.tree.norm, (gradient, updates))
    finite = jnp.isfinite(loss + gradient_norm + update_norm)
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)  # noqa: E731
    new_state = TrainState(
        step=state.step + 1,
        params=keep(params, state.params),
        ema=keep(average, state.ema),
        opt_state=keep(opt_state, state.opt_state),
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    measured = {
        "loss": loss,
        "losses": objective.in_edm_weight(losses, sigma),
        "sigma": sigma,
        "gradient_norm": gradient_norm,
        "update_norm": update_norm,
        "parameter_norm": optax.tree.norm(new_state.params),
        "skipped": new_state.skipped,
        "skipped_in_a_row": new_state.skipped_in_a_row,
    }
    return new_state, measured


def _averaged(old: Params, new: Params, decay: Array) -> Params:
    return jax.tree.map(lambda o, n: o + (1 - decay) * (n - o), old, new)


def parameter_count(params: Params) -> int:
    """Number of trained numbers; works on shapes as well."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
