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


def check_patch(mesh: Mesh, patch: int, levels: int) -> None:
    """Raises `InputError` unless every level's z can be shared out evenly over `space`."""
    space = mesh.shape["space"]
    if patch % (space * 2 ** (levels - 1)):
        halved = patch // 2 ** (levels - 1)
        fit = next(n for n in range(space, 0, -1) if mesh.size % n == 0 == halved % n)
        raise InputError(
            f"patch {patch} cannot be halved {levels - 1} times and split over mesh.space={space}; "
            f"use mesh.space={fit}, or a patch divisible by {space * 2 ** (levels - 1)}"
        )


def microbatches(mesh: Mesh, batch: int, patches_per_device: int = 0) -> int:
    """In how many parts a device works through its rows, `patches_per_device` at once (0: all).

    Raises:
        InputError: batch and devices, or rows and patches at once, do not divide.
    """
    n = mesh.shape["data"]
    if batch % n:
        fit = max(batch // n, 1) * n
        fewer = max(k for k in range(1, n) if batch % k == 0 == mesh.size % k)
        raise InputError(
            f"train.batch is {batch}, not divisible by the {n} devices of mesh axis data; use "
            f"{fit} or {fit + n}, or a mesh.space that leaves {fewer} of them to data"
        )
    rows = batch // n
    if not patches_per_device or rows <= patches_per_device:
        return 1
    if rows % patches_per_device:
        fit = max(k for k in range(1, patches_per_device) if rows % k == 0)
        raise InputError(
            f"train.patches_per_device is {patches_per_device}, which does not divide the {rows} "
            f"patches that a batch of {batch} gives each of {n}; use {fit}"
        )
    return rows // patches_per_device


def batch_shardings(mesh: Mesh, names: Any) -> dict[str, NamedSharding]:
    """Sharding of each array of a batch: the first axis over `data`, z over `space`."""
    return {
        name: NamedSharding(mesh, P("data", "space") if name in WITH_Z else P("data"))
        for name in names
    }


def abstract_batch(mesh: Mesh, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch on the mesh, as compiling wants them."""
    shardings = batch_shardings(mesh, batch)
    return {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=shardings[name])
        for name, a in batch.items()
    }


def rows_here(mesh: Mesh, batch: int) -> np.ndarray:
    """Which rows of a global batch the devices of this process work on, rising.

    Where `space` spans processes, they share rows and each reads them whole.
    """
    over_data = NamedSharding(mesh, P("data"))
    held = over_data.addressable_devices_indices_map((batch,)).values()
    return np.unique([np.arange(batch)[index] for index in held])


def to_devices(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A global batch on the mesh; every process holds all of it on its host."""
    n = len(next(iter(batch.values())))
    return rows_to_devices(mesh, batch, rows=np.arange(n), batch=n)


def rows_to_devices(
    mesh: Mesh, local: dict[str, np.ndarray], *, rows: np.ndarray, batch: int
) -> dict[str, jax.Array]:
    """A global batch of `batch` rows on the mesh; this process has `rows`, those of `rows_here`."""
    shardings = batch_shardings(mesh, local)

    def placed(name: str, array: np.ndarray) -> jax.Array:
        def piece(index: Any) -> np.ndarray:
            first, end, _ = index[0].indices(batch)
            begin = int(np.searchsorted(rows, first))
            return array[(slice(begin, begin + end - first), *index[1:])]

        return jax.make_array_from_callback((batch, *array.shape[1:]), shardings[name], piece)

    return {name: placed(name, array) for name, array in local.items()}


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
