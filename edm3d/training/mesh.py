"""The device mesh, axes `data` and `space`, and what is split over it.

Batches are split over `data` and along z over `space`; parameters are replicated, or with `fsdp`
split over `data` along their largest divisible axis. `jax.jit` (what `pjit` became) inserts the
collectives: one gradient reduction over `data`, halo exchanges over `space`.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from edm3d.errors import InputError

WITH_Z = ("prior_hu", "target_hu", "xray_pa", "xray_lat", "prior_xray_pa", "prior_xray_lat")
SMALLEST_SPLIT = 2**16  # parameters of fewer numbers stay whole under fsdp


def make_mesh(data: int = -1, space: int = 1, devices: list | None = None) -> Mesh:
    """A `data` x `space` mesh over all devices; `data = -1` takes what `space` leaves."""
    devices = devices or jax.devices()
    if data == -1 and space > 0:
        data = max(len(devices) // space, 1)
    if data * space != len(devices):
        raise InputError(
            f"mesh data x space is {data} x {space}, but there are {len(devices)} devices; "
            f"use mesh.data=-1 and a mesh.space that divides {len(devices)}"
        )
    return jax.make_mesh((data, space), ("data", "space"), (AxisType.Auto,) * 2, devices=devices)


def check_batch(mesh: Mesh, batch_size: int, patch: int) -> None:
    """Raises `InputError` unless batch and z can be shared out evenly over `data` and `space`."""
    n, space = mesh.shape["data"], mesh.shape["space"]
    if patch % space:
        raise InputError(f"patch {patch} is not divisible by mesh.space={space}; use fewer")
    if batch_size % n:
        fit = max(batch_size // n, 1) * n
        raise InputError(
            f"train.batch is {batch_size}, not divisible by the {n} devices of mesh axis data; "
            f"use {fit} or {fit + n}"
        )


def batch_shardings(mesh: Mesh, names: Any) -> dict[str, NamedSharding]:
    """Sharding of each array of a batch: the first axis over `data`, z over `space`."""
    return {
        name: NamedSharding(mesh, P("data", "space") if name in WITH_Z else P("data"))
        for name in names
    }


def to_devices(mesh: Mesh, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The global batch on the mesh, from the rows that this process read."""
    shardings = batch_shardings(mesh, local)
    return {
        name: jax.make_array_from_process_local_data(shardings[name], array)
        for name, array in local.items()
    }


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def state_shardings(mesh: Mesh, shapes: Any, *, fsdp: bool = False) -> Any:
    """Sharding of each leaf of a state whose shapes `jax.eval_shape` gave."""
    rule = _split_largest if fsdp else lambda mesh, leaf: P()
    return jax.tree.map(lambda leaf: NamedSharding(mesh, rule(mesh, leaf)), shapes)


def _split_largest(mesh: Mesh, leaf: Any) -> P:
    """Splits the largest axis that `data` divides; small leaves stay whole."""
    n = mesh.shape["data"]
    fitting = [(size, axis) for axis, size in enumerate(leaf.shape) if size % n == 0]
    if not fitting or np.prod(leaf.shape) < SMALLEST_SPLIT:
        return P()
    axis = max(fitting)[1]
    return P(*("data" if a == axis else None for a in range(len(leaf.shape))))
