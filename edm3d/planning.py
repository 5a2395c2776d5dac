"""What a config costs on given devices, before any run: `Plan`, made by `make_plan`.

Shapes alone are needed: no accelerator, no records. Used by `edm3d.plan`; how a plan reads is in
`edm3d.plan_text`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from edm3d import experiment
from edm3d.diffusion.unet import REMAT, stride
from edm3d.errors import InputError
from edm3d.trainer import Trainer, build_trainer, run_key
from edm3d.training import costs
from edm3d.training import mesh as meshes
from edm3d.training.collectives import collective_bytes
from edm3d.training.hardware import Accelerator, step_time
from edm3d.training.memory import XLA_NEEDS, jaxpr_peak_bytes, tree_bytes
from edm3d.training.objective import Objective, abstract_params
from edm3d.training.state import Ema, parameter_count
from edm3d.wire import info_of, wire_batch

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know
USABLE = 0.9  # of a device's memory: the rest is the driver's, the runtime's and fragmentation
STATE_COPIES = 4  # parameters, their average, two moments of Adam


@dataclass(frozen=True)
class RematCost:
    """A way of `model.remat`, for one patch: work of its gradient, memory, halos, and what fits."""

    flops: float
    peak_bytes: int
    halo_bytes: float
    fits: int  # patches at once on a device

    def needs_bytes(self, patches: float) -> float:
        """Memory of so many patches at once, with what XLA takes beyond the estimate."""
        return XLA_NEEDS * self.peak_bytes * patches


@dataclass(frozen=True)
class Layout:
    """A mesh with a batch that it can share out: patches a device, and how long a step takes."""

    devices: int
    data: int
    space: int
    batch: int
    at_once: int
    device_bytes: float
    compute_s: float
    apart_s: float
    together_s: float


@dataclass(frozen=True)
class Plan:
    """Everything a plan tells; bytes, seconds and FLOPs.

    Attributes:
        refusal: why the config's batch and mesh do not suit the devices; None if they do.
        fixed_bytes: a device's state, gradients and batch: all but activations.
        sent: bytes of each collective of the compiled step, a device; None if not compiled.
        schedule: rows of update, patches seen, learning rate, EMA half-life in patches.
    """

    devices: int
    accelerator: Accelerator
    utilisation: float
    refusal: str | None
    fits: bool
    parameters: int
    channels: int
    forward_flops: float
    remat: str
    costs: dict[str, RematCost]
    usable_bytes: float
    fixed_bytes: float
    fsdp: bool
    batch: int
    layout: Layout | None
    layouts: list[Layout]
    scaling: list[Layout]
    sent: dict[str, int] | None
    schedule: list[tuple[int, int, float, float]]
    checkpoint_bytes: int
    keep_checkpoints: int
    steps: int


def make_plan(
    config: Config, accelerator: Accelerator, *, devices: int, utilisation: float, compiled: bool
) -> Plan:
    """The plan of a config on `devices` accelerators; JAX must show as many devices.

    `compiled` also compiles the step, for its collectives, which takes minutes.

    Raises:
        InputError: a number, patch or name that no run can be made with on any devices.
    """
    experiment.check_numbers(config)
    experiment.check_patch(config.patch, len(config.model.channel_mult))
    objective = costs.as_on_accelerators(experiment.objective_of(config, info_of(config)))
    trainer, refusal = _trainer(config, objective)
    params = abstract_params(objective)
    batch = wire_batch(config, config.train.batch)
    batch_bytes = tree_bytes(batch) // config.train.batch
    usable = USABLE * 1e9 * accelerator.memory_gb
    fixed = _fixed_bytes(trainer, params)
    each = {
        name: _remat_cost(config, objective, name, usable - fixed, batch_bytes) for name in REMAT
    }
    price = _Price(
        config,
        accelerator,
        utilisation,
        each[config.model.remat],
        fixed,
        batch_bytes,
        tree_bytes(params),
    )
    at_once, now = max(config.train.patches_per_device, 1), None
    if trainer:
        now = price.layout(devices, trainer.mesh.shape["space"], config.train.batch)
    return Plan(
        devices=devices,
        accelerator=accelerator,
        utilisation=utilisation,
        refusal=refusal,
        fits=now is not None and now.device_bytes <= usable,
        parameters=parameter_count(params),
        channels=1 + len(objective.conditioning.channel_names),
        forward_flops=costs.forward_flops(objective, config.patch),
        remat=config.model.remat,
        costs=each,
        usable_bytes=usable,
        fixed_bytes=fixed,
        fsdp=config.mesh.fsdp,
        batch=config.train.batch,
        layout=now,
        layouts=_layouts(config, price, devices),
        scaling=_scaling(price, now or price.layout(devices, 1, devices * at_once)),
        sent=_sent(trainer, batch) if trainer and compiled else None,
        schedule=_schedule(config),
        checkpoint_bytes=STATE_COPIES * tree_bytes(params),
        keep_checkpoints=config.train.keep_checkpoints,
        steps=config.train.steps,
    )


def _trainer(config: Config, objective: Objective) -> tuple[Trainer | None, str | None]:
    """The run's jitted functions, or why its batch and mesh do not suit the devices."""
    try:
        return build_trainer(config, objective), None
    except InputError as error:
        return None, str(error)


def _fixed_bytes(trainer: Trainer | None, params: Any) -> float:
    """State as it is split, and two whole gradients: of a microbatch, and their sum."""
    whole = tree_bytes(params)
    if trainer is None:
        return (STATE_COPIES + 2) * whole
    parts = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.sharding.shard_shape(a.shape), a.dtype), trainer.abstract
    )
    gathered = whole if tree_bytes(parts) < STATE_COPIES * whole else 0  # parameters, of fsdp
    return tree_bytes(parts) + 2 * whole + gathered


def _remat_cost(
    config: Config, objective: Objective, remat: str, free_bytes: float, batch_bytes: int
) -> RematCost:
    model = objective.model.clone(remat=remat)
    objective = dataclasses.replace(objective, model=model)

    def gradient(params: Any, *rows: Any) -> Any:
        losses = lambda p: objective.losses(p, *rows, train=True).sum()  # noqa: E731
        return jax.value_and_grad(losses)(params)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    sigma = jax.ShapeDtypeStruct((1,), np.float32)
    jaxpr = jax.make_jaxpr(gradient)(
        abstract_params(objective), wire_batch(config, 1), sigma, keys
    ).jaxpr
    peak = jaxpr_peak_bytes(jaxpr)
    fits = int(max(free_bytes, 0) // (XLA_NEEDS * peak + batch_bytes))
    return RematCost(costs.jaxpr_flops(jaxpr), peak, costs.halo_bytes(jaxpr), fits)


@dataclass(frozen=True)
class _Price:
    """What makes a layout's memory and time from its numbers."""

    config: Config
    accelerator: Accelerator
    utilisation: float
    cost: RematCost
    fixed_bytes: float
    batch_bytes: int
    gradient_bytes: float

    def layout(self, devices: int, space: int, batch: int) -> Layout:
        data = devices // space
        rows = batch // data
        at_once = self.config.train.patches_per_device
        at_once = min(at_once, rows) if at_once else rows
        time = step_time(
            self.accelerator,
            devices=devices,
            utilisation=self.utilisation,
            device_flops=rows / space * self.cost.flops,
            gradient_bytes=self.gradient_bytes,
            space=space,
            halo_bytes=rows * self.cost.halo_bytes,
        )
        activations = self.cost.needs_bytes(at_once / space)
        return Layout(
            devices=devices,
            data=data,
            space=space,
            batch=batch,
            at_once=at_once,
            device_bytes=self.fixed_bytes + activations + rows * self.batch_bytes / space,
            compute_s=time.compute_s,
            apart_s=time.apart_s,
            together_s=time.together_s,
        )


def _layouts(config: Config, price: _Price, devices: int) -> list[Layout]:
    """For each `mesh.space` that the patch allows: the nearest batch that the devices can share."""
    coarsest = config.patch // stride(len(config.model.channel_mult))
    found = []
    for space in (2**k for k in range(8)):
        if devices % space == 0 == coarsest % space:
            data = devices // space
            batch = -(-config.train.batch // data) * data
            found.append(price.layout(devices, space, batch))
    return found


def _scaling(price: _Price, now: Layout) -> list[Layout]:
    """The same work a device on fewer devices: one group of `space`, then twice as many, ..."""
    rows, groups = now.batch // now.data, [1]
    while groups[-1] * 2 < now.data:
        groups.append(groups[-1] * 2)
    counts = [*groups, now.data] if now.data > 1 else groups
    return [price.layout(n * now.space, now.space, n * rows) for n in counts]


def _sent(trainer: Trainer, batch: Mapping[str, Any]) -> dict[str, int]:
    """Collectives of the compiled step; nothing is optimised, since nothing will be run."""
    on_mesh = meshes.abstract_batch(trainer.mesh, batch)
    lowered = trainer.step.lower(trainer.abstract, on_mesh, run_key(trainer.mesh, 0))
    options = {"xla_backend_optimization_level": 0}
    return collective_bytes(lowered.compile(compiler_options=options).as_text())


def _schedule(config: Config) -> list[tuple[int, int, float, float]]:
    _, rate = experiment.optimizer_of(config)
    ema, steps, batch = Ema(**config.ema), config.train.steps, config.train.batch
    ramp = config.optimizer.ramp_updates
    wanted = {1, ramp // 2, ramp, *(round(steps * part) for part in (0.01, 0.1, 0.5, 1))}
    return [
        (n, n * batch, float(rate(n - 1)), float(ema.half_life(n - 1, batch)))
        for n in sorted(wanted)
        if 1 <= n <= steps
    ]
