"""The gradient of a global batch: shared out over `data`, in microbatches, reduced once.

Shapes: b global batch, m rows of one microbatch on one device.

Each device sums the gradients of its own rows, microbatch by microbatch, and only then are the sums
reduced over `data`: one reduction of the parameters' size a step, however many microbatches. With
parameters split over `data` (fsdp) they are gathered once before and reduced to their parts after.
The split of z over `space` inside is left to XLA.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

Array = jax.Array
Params = Any
Rows = Any  # a tree of arrays whose first axis is the batch
Losses = Callable[[Params, Rows], Array]
Gradient = Callable[[Losses, Params, Rows], tuple[Array, Params]]


def sharded_gradient(mesh: Mesh, split: Any, microbatches: int = 1) -> Gradient:
    """`(losses, params, rows) -> losses [b], gradient of their mean` over the `data` of a mesh.

    Args:
        split: `PartitionSpec` of each parameter, `P()` or one axis over `data`.
        microbatches: how many parts each device's rows are worked through in.
    """

    def gradient(losses: Losses, params: Params, rows: Rows) -> tuple[Array, Params]:
        def on_one(params: Params, rows: Rows) -> tuple[Array, Params]:
            whole = jax.tree.map(_gather, params, split)
            values, total = _accumulated(losses, whole, rows, microbatches)
            return values, jax.tree.map(_reduce, total, split)

        # `space` stays with XLA: only `data` is ours
        shared = jax.shard_map(
            on_one,
            mesh=mesh,
            in_specs=(split, P("data")),
            out_specs=(P("data"), split),
            axis_names={"data"},
        )
        values, total = shared(params, rows)
        return values, jax.tree.map(lambda leaf: leaf / len(values), total)

    return gradient


def _summed(losses: Losses, params: Params, rows: Rows) -> tuple[Array, Params]:
    """Losses and the gradient of their sum."""

    def total(p: Params) -> tuple[Array, Array]:
        values = losses(p, rows)
        return jnp.sum(values), values

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return values, gradient


def _accumulated(
    losses: Losses, params: Params, rows: Rows, microbatches: int
) -> tuple[Array, Params]:
    if microbatches == 1:
        return _summed(losses, params, rows)
    parts = jax.tree.map(lambda a: a.reshape(microbatches, -1, *a.shape[1:]), rows)

    def add(total: Params, part: Rows) -> tuple[Params, Array]:
        values, gradient = _summed(losses, params, part)
        return jax.tree.map(jnp.add, total, gradient), values

    total, values = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    return values.reshape(-1), total


def _gather(leaf: Array, spec: P) -> Array:
    """A whole parameter; marked as each device's own, so that its gradient is not yet reduced."""
    if "data" in spec:
        return jax.lax.all_gather(leaf, "data", axis=tuple(spec).index("data"), tiled=True)
    return jax.lax.pcast(leaf, "data", to="varying")


def _reduce(leaf: Array, spec: P) -> Array:
    if "data" in spec:
        axis = tuple(spec).index("data")
        return jax.lax.psum_scatter(leaf, "data", scatter_dimension=axis, tiled=True)
    return jax.lax.psum(leaf, "data")
