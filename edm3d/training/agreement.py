"""How the processes of a run agree to stop: a flag that travels with each step.

A signal may reach one process or all, each at another moment, yet all must save the same step.
Each process puts its flag on its devices beside the batch; the compiled step gives back whether any
was set, so all learn it from the same step, without a wait of their own. A process alone needs none
of this, and its step is compiled without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

FLAG = "stop_asked"  # in a batch: 1 for each device of a process that was asked to stop


def several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def flagged_shapes(mesh: Mesh, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes of a batch with what `Agreement.flagged` adds."""
    if not several():
        return dict(batch)
    flag = jax.ShapeDtypeStruct((mesh.size,), np.int8, sharding=_one_a_device(mesh))
    return {**batch, FLAG: flag}


def told_by(step: Callable) -> Callable:
    """`(state, batch, key) -> (state, measured)` that also measures whether any flag is set."""

    def telling(state: Any, batch: dict, key: Any) -> tuple[Any, dict]:
        rest = {name: array for name, array in batch.items() if name != FLAG}
        state, measured = step(state, rest, key)
        return state, {**measured, FLAG: jnp.max(batch[FLAG])}

    return telling if several() else step


class Agreement:
    """Whether a run is to stop: what `asked` says, or among several processes what any of theirs.

    Attributes:
        reached: all processes know it, after the same step.
    """

    def __init__(self, mesh: Mesh, asked: Callable[[], bool]):
        self._asked, self._several, self._mesh = asked, several(), mesh
        self.reached = False
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def alone(self) -> bool:
        """Whether this process is asked to stop and need ask no other."""
        return not self._several and self._asked()

    def flagged(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The batch with this process's flag as it stands now."""
        return {**batch, FLAG: self._flag()} if self._several else batch

    def hear(self, *measured: Mapping[str, Any]) -> None:
        """Takes note of what steps that are done have told."""
        if self._several:
            self.reached |= any(bool(m[FLAG]) for m in measured)

    def now(self) -> bool:
        """Asks all and waits for their answer; all must call it at the same point."""
        return bool(self._any(self._flag())) if self._several else self._asked()

    def _flag(self) -> jax.Array:
        flag = np.full(1, self._asked(), np.int8)
        sharding = _one_a_device(self._mesh)
        return jax.make_array_from_callback((self._mesh.size,), sharding, lambda _: flag)


def _one_a_device(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(("data", "space")))
