"""What a config compiles to: a run's jitted functions, and where its arrays live.

Used by `edm3d.train`; nothing here runs a step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from edm3d import experiment, options
from edm3d.training import agreement
from edm3d.training import mesh as meshes
from edm3d.training.checkpoint import abstract_like
from edm3d.training.gradient import sharded_gradient
from edm3d.training.noise_levels import validation_sigmas
from edm3d.training.objective import Objective
from edm3d.training.state import MAIN, TrainState, init_state, train_step

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know
Shapes = Mapping[str, Any]  # of a global batch on the wire: anything with shape and dtype


@dataclass(frozen=True)
class Trainer:
    """A run's jitted functions and its state's shapes and shardings.

    Attributes:
        init: `(key) -> state`, born with its sharding.
        step: `(state, batch, key) -> (state, measured)`; the old state is given up.
        validate: `(params, batch with sigma [b], keys [b]) -> losses [b]`.
        microbatches: parts in which a device works through its rows.
    """

    mesh: jax.sharding.Mesh
    microbatches: int
    shardings: TrainState
    abstract: TrainState
    init: Callable[[jax.Array], TrainState]
    step: Any
    validate: Any

    def compiled_step(self, *batches: Shapes) -> Callable:
        """`step` compiled for batches of each of these shapes; it runs the one of its batch."""
        compiled = {_side(batch): self._compiled(batch) for batch in batches}

        def step(state: TrainState, batch: Shapes, key: jax.Array) -> tuple[TrainState, dict]:
            return compiled[_side(batch)](state, batch, key)

        return step

    def _compiled(self, batch: Shapes) -> Callable:
        on_mesh = agreement.flagged_shapes(self.mesh, meshes.abstract_batch(self.mesh, batch))
        return self.step.lower(self.abstract, on_mesh, run_key(self.mesh, 0)).compile()


def _side(batch: Shapes) -> int:
    return batch["prior_hu"].shape[-1]


def build_trainer(config: Config, objective: Objective) -> Trainer:
    """Shapes by `eval_shape`, shardings by rule, functions jitted with both; nothing is run yet."""
    section = dict(config.mesh)
    fsdp = section.pop("fsdp")
    mesh, levels = meshes.make_mesh(**section), len(config.model.channel_mult)
    for side in {config.patch, *(side for side, _ in options.patches_of(config))}:
        meshes.check_patch(mesh, side, levels)
    microbatches = meshes.microbatches(mesh, config.train.batch, config.train.patches_per_device)
    optimizer, _ = experiment.optimizer_of(config)
    side = 2 ** (levels - 1)
    averages = options.averages_of(config)
    fields = dict(objective=objective, optimizer=optimizer, averages=tuple(averages))
    init = partial(init_state, side=side, **fields)
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = meshes.state_shardings(mesh, shapes, fsdp=fsdp)
    split = jax.tree.map(lambda s: s.spec, shardings.params)
    step = partial(
        train_step,
        objective=objective,
        optimizer=optimizer,
        ema=averages,
        gradient_of=sharded_gradient(mesh, split, microbatches),
    )
    everywhere = meshes.replicated(mesh)
    return Trainer(
        mesh=mesh,
        microbatches=microbatches,
        shardings=shardings,
        abstract=abstract_like(shapes, shardings),
        init=jax.jit(init, out_shardings=shardings, compiler_options=quick_compile()),
        step=jax.jit(
            agreement.told_by(step), donate_argnums=0, out_shardings=(shardings, everywhere)
        ),
        validate=jax.jit(partial(_validation, objective), out_shardings=everywhere),
    )


def _validation(
    objective: Objective, params: Any, batch: dict[str, jax.Array], keys: jax.Array
) -> jax.Array:
    return objective.losses(params, batch, batch["sigma"], keys, train=False)


class Validator:
    """Losses on a fixed batch at fixed noise levels `sigma [count]` with fixed noise."""

    def __init__(
        self, trainer: Trainer, batch: dict[str, np.ndarray], *, p_mean: float, p_std: float
    ):
        """Compiles; `batch` is on the host, `p_mean` and `p_std` are those of the training."""
        self._mesh, self._count = trainer.mesh, len(batch["start"])
        everywhere = meshes.replicated(trainer.mesh)
        self._keys = jax.jit(partial(_keys_of, self._count), out_shardings=everywhere)
        levels = validation_sigmas(self._count, p_mean=p_mean, p_std=p_std)
        self.sigma = levels
        self._rows = {**batch, "sigma": levels}
        # a row a device at a time: no more memory than training
        self._at_once = trainer.mesh.shape["data"]
        example = zeros_like_batch(self._rows, self._at_once)
        shapes = meshes.abstract_batch(trainer.mesh, example)
        self._validate = trainer.validate.lower(
            trainer.abstract.ema[MAIN], shapes, self._keys(np.arange(self._at_once))
        ).compile()

    def losses(
        self, params: Any, stop_asked: Callable[[], bool] = lambda: False
    ) -> np.ndarray | None:
        """`[count]`, or None where a stop was asked meanwhile."""
        losses: list[np.ndarray] = []
        for first in range(0, self._count, self._at_once):
            if stop_asked():
                return None
            rows = np.minimum(np.arange(first, first + self._at_once), self._count - 1)
            batch = meshes.to_devices(self._mesh, {k: v[rows] for k, v in self._rows.items()})
            losses.append(jax.device_get(self._validate(params, batch, self._keys(rows))))
        return np.concatenate(losses)[: self._count]


def _keys_of(count: int, rows: jax.Array) -> jax.Array:
    """Those of `count` keys that never change."""
    return jax.random.split(jax.random.key(0), count)[rows]


def run_key(mesh: jax.sharding.Mesh, seed: int) -> jax.Array:
    """The run's random key, on every device of the mesh."""
    make = jax.jit(lambda: jax.random.key(seed), out_shardings=meshes.replicated(mesh))
    return make()


def quick_compile() -> dict[str, int] | None:
    """What runs once need not be fast: on CPUs optimising it takes longer than running it."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


def zeros_like_batch(example: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """A batch of `rows` zeros in the shapes of a batch of one; it takes no memory."""
    return {
        name: np.broadcast_to(np.zeros((), a.dtype), (rows, *a.shape[1:]))
        for name, a in example.items()
    }
