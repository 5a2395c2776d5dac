"""Sample sheets: what the averaged weights draw of a few held-back patches while a run trains.

Shapes: n patches, z y x voxels in HU. Patches, noise and windows never change in a run, so that its
sheets are comparable; nothing of training is touched by them. The picture is
`edm3d.report.sheet`.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from edm3d.generation import Solver, build_generator
from edm3d.trainer import Trainer, quick_compile, zeros_like_batch
from edm3d.training import mesh as meshes
from edm3d.training.objective import Objective
from edm3d.training.state import MAIN

Patches = dict[str, np.ndarray]


class Sheets:
    """Draws fixed patches with whatever weights a run has come to."""

    def __init__(
        self, trainer: Trainer, objective: Objective, solver: Solver, patches: Patches, seed: int
    ):
        """Compiles; `patches` is a batch of held-back patches on the host, targets among it."""
        self.prior_hu, self.target_hu = patches["prior_hu"], patches["target_hu"]
        self._mesh, self._count = trainer.mesh, len(self.prior_hu)
        # no model may see the answer
        self._rows = {name: a for name, a in patches.items() if name != "target_hu"}
        split = lambda rows: jax.random.split(jax.random.key(seed), self._count)[rows]  # noqa: E731
        self._keys = jax.jit(split, out_shardings=meshes.replicated(self._mesh))
        # a row a device at a time: no more memory than training
        self._at_once = trainer.mesh.shape["data"]
        shapes = meshes.abstract_batch(self._mesh, zeros_like_batch(self._rows, self._at_once))
        keys = self._keys(np.zeros(self._at_once, int))
        generate = build_generator(objective, solver, self._mesh)
        lowered = generate.lower(trainer.abstract.ema[MAIN], shapes, keys)
        self._generate = lowered.compile(compiler_options=quick_compile())

    def draw(
        self, params: Any, stop_asked: Callable[[], bool] = lambda: False
    ) -> np.ndarray | None:
        """int16 HU `[n, z, y, x]`; None where a stop was asked, or a voxel is not finite."""
        drawn: list[np.ndarray] = []
        for first in range(0, self._count, self._at_once):
            if stop_asked():
                return None
            rows = np.minimum(np.arange(first, first + self._at_once), self._count - 1)
            batch = meshes.to_devices(self._mesh, {k: v[rows] for k, v in self._rows.items()})
            hu, finite = jax.device_get(self._generate(params, batch, self._keys(rows)))
            if not finite.all():
                return None
            drawn.append(hu)
        return np.concatenate(drawn)[: self._count]
