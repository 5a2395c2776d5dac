"""Checkpoints of a run; the only module that knows Orbax.

A checkpoint holds parts, so that sampling reads one set of averaged weights alone: `ema` (the main
average), `ema_NAME` for each further one, and `training` (everything else of a `TrainState`).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from edm3d.errors import InputError
from edm3d.training.state import MAIN, TrainState


class Checkpoints:
    """The checkpoints in one folder, of which the newest `keep` stay."""

    def __init__(self, folder: Path, *, keep: int = 2):
        # Orbax's policies do not match its own protocol for a type checker.
        policy: Any = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.resolve()), preservation_policy=policy, cleanup_tmp_directories=True
        )

    def latest_step(self) -> int | None:
        """Updates made when the newest whole checkpoint was taken; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, *, wait: bool = False) -> None:
        """Saves in the background; `wait` returns when it is on disk."""
        step = int(state.step)
        self._checkpointer.wait()
        if step != self.latest_step():
            parts = _parts(state)
            self._checkpointer.save_checkpointables_async(step, parts, force=True)
        if wait:
            self._checkpointer.wait()

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state saved at `step`, with the shapes and shardings of `abstract`."""
        loaded = self._checkpointer.load_checkpointables(step, _parts(abstract))
        ema = {name: loaded[_part_of(name)] for name in abstract.ema}
        return dataclasses.replace(loaded["training"], ema=ema)

    def close(self) -> None:
        """Waits for a save under way and lets go of the folder."""
        self._checkpointer.wait()
        self._checkpointer.close()


def _part_of(average: str) -> str:
    return "ema" if average == MAIN else f"ema_{average}"


def _parts(state: TrainState) -> dict[str, Any]:
    averages = {_part_of(name): weights for name, weights in state.ema.items()}
    return {**averages, "training": dataclasses.replace(state, ema={})}


def read_ema(
    run: Path, abstract: Any, step: int | None = None, *, average: str = MAIN
) -> tuple[int, Any]:
    """The step and the averaged weights of a run's newest (or the given) checkpoint.

    Raises:
        InputError: the run folder holds no checkpoint, or none of that step.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"run folder {run} holds no checkpoint; train it first with edm3d.train")
    with ocp.training.Checkpointer(str(folder.resolve())) as checkpointer:
        steps = [c.step for c in checkpointer.checkpoints]
        if not steps:
            raise InputError(f"{folder} holds no whole checkpoint; let edm3d.train run on")
        if step is not None and step not in steps:
            raise InputError(f"checkpoint step {step} is not in {folder}; choose one of {steps}")
        step, part = max(steps) if step is None else step, _part_of(average)
        return step, checkpointer.load_checkpointables(step, {part: abstract})[part]


def abstract_like(shapes: Any, shardings: Any) -> Any:
    """Shapes with shardings, as restoring wants them."""
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings
    )
