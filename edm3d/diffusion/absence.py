"""Conditions that are not there: which can be missing, what stands in their place, how F is told.

Shapes: b batch, z y x voxels, c channels, g groups (in the order of `GROUPS`). A mask `given
[b, g]` is true where a sample has a group. A channel of zeros is a measurement (water, no
difference, the middle of a scalar's range), so each group that can be missing has a channel
`absent_...` besides: 1 where it is missing, else 0. With everything given, F sees what a network
sees that cannot do without, and zeros.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array
GROUPS = ("xrays", "ventilation", "prior_ventilation")
SCALARS = ("peep", "tidal_volume", "phase")


def group_of(channel: str) -> str | None:
    """The group that a channel belongs to; None where it is always there."""
    if channel.startswith("xray_"):
        return "xrays"
    if channel in SCALARS:
        return "ventilation"
    return "prior_ventilation" if channel.removeprefix("prior_") in SCALARS else None


def absence_names(droppable: Sequence[str]) -> tuple[str, ...]:
    """The names of the channels that tell of missing groups."""
    return tuple(f"absent_{group}" for group in droppable)


def null_count(names: Sequence[str], droppable: Sequence[str]) -> int:
    """How many of the channels `names` can be missing, each with a null value of its own."""
    return sum(group_of(name) in droppable for name in names)


def hide_absent(
    channels: Array,
    names: Sequence[str],
    droppable: Sequence[str],
    *,
    given: Array | None = None,
    null: Array | None = None,
) -> Array:
    """`[b, z, y, x, c + droppable]`: null values where a group is missing, and who is missing.

    Args:
        channels: `[b, z, y, x, c]`, of these `names`.
        droppable: the groups that can be missing.
        given: `[b, g]`; None where everything is there.
        null: one value for each channel that can be missing, in their order; None for zeros.
    """
    everything = jnp.ones((len(channels), len(GROUPS)), bool)
    given = everything if given is None else jnp.asarray(given, bool)
    groups = [group_of(name) for name in names]
    can_miss = [k for k, group in enumerate(groups) if group in droppable]
    all_there = jnp.ones(len(channels), bool)
    columns = [given[:, GROUPS.index(g)] if g in droppable else all_there for g in groups]
    there = jnp.stack(columns, axis=-1)
    instead = jnp.zeros(len(names))
    if null is not None:
        instead = instead.at[jnp.array(can_miss)].set(null)
    shown = jnp.where(there[:, None, None, None], channels, instead)
    absent = 1.0 - jnp.stack([given[:, GROUPS.index(group)] for group in droppable], axis=-1)
    absent = jnp.broadcast_to(absent[:, None, None, None], (*channels.shape[:-1], len(droppable)))
    return jnp.concatenate([shown, absent], axis=-1)
