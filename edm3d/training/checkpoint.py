"""Checkpoints of a run; the only module that knows Orbax.

A checkpoint holds parts, so that sampling reads one set of averaged weights alone: `ema` (the main
average), `ema_NAME` for each further one, and `training` (everything else of a `TrainState`), and
beside them the measurements by which `edm3d.training.retention` chooses what stays.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from edm3d.training.disk import not_written
from edm3d.training.quiet import quiet_failures
from edm3d.training.retention import Saved, kept
from edm3d.training.state import MAIN, TrainState

METRICS = Path("metrics/metrics")  # where in a checkpoint Orbax keeps what was measured
quiet_failures()


@dataclasses.dataclass(frozen=True)
class _Retention:
    """`retention.kept` as Orbax asks for it."""

    newest: int
    every: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        stay = kept([_saved(c) for c in checkpoints], newest=self.newest, every=self.every)
        return [c.step in stay for c in checkpoints]


def _saved(checkpoint: Any) -> Saved:
    return Saved(checkpoint.step, **(checkpoint.metrics or {}))


class Checkpoints:
    """The checkpoints in one folder: the newest `keep`, one each `every` updates, best and good.

    A folder that a run left is first looked through by `restore.newest_whole`.
    """

    def __init__(self, folder: Path, *, keep: int = 2, every: int = 0):
        self.folder, self._saving, self._failed = folder, "a checkpoint", False
        # Orbax's policies do not match its own protocol for a type checker.
        policy: Any = _Retention(keep, every)
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.resolve()), preservation_policy=policy, cleanup_tmp_directories=True
        )

    def latest_step(self) -> int | None:
        """Updates made when the newest checkpoint was taken; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def saved(self) -> list[Saved]:
        """What is known of each checkpoint, oldest first, one that is being written included."""
        return [_saved(c) for c in self._checkpointer.checkpoints]

    def save(self, state: TrainState, known: Saved | None = None, *, wait: bool = False) -> None:
        """Saves in the background; `wait` returns when it is on disk.

        Raises:
            InputError: this save, or the one before, did not fit on the disk.
        """
        step = int(state.step)
        try:
            self._checkpointer.wait()
            if step != self.latest_step():
                self._saving = f"the checkpoint of step {step}"
                metrics = (known or Saved(step)).metrics()
                parts = parts_of(state)
                self._checkpointer.save_checkpointables_async(
                    step, parts, force=True, metrics=metrics
                )
            if wait:
                self._checkpointer.wait()
        except (OSError, ValueError) as error:
            self._failed = True
            raise not_written(error, self._saving, self.folder) from error

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state saved at `step`, with the shapes and shardings of `abstract`."""
        loaded = self._checkpointer.load_checkpointables(step, parts_of(abstract))
        ema = {name: loaded[part_of(name)] for name in abstract.ema}
        return dataclasses.replace(loaded["training"], ema=ema)

    def close(self) -> None:
        """Waits for a save under way and lets go of the folder."""
        try:
            self._checkpointer.wait()
            self._checkpointer.close()
        except (OSError, ValueError) as error:
            if not self._failed:  # else it has been told
                raise not_written(error, self._saving, self.folder) from error


def parts_of(state: TrainState) -> dict[str, Any]:
    """A state as its checkpoint holds it."""
    averages = {part_of(name): weights for name, weights in state.ema.items()}
    return {**averages, "training": dataclasses.replace(state, ema={})}


def part_of(average: str) -> str:
    """What the part of a checkpoint that holds an average is called."""
    return "ema" if average == MAIN else f"ema_{average}"


def shapes_saved(checkpoint: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a checkpoint's part by their names, as `named_shapes` gives them."""
    return named_shapes(_metadata(checkpoint)[part])


def _metadata(checkpoint: Path) -> dict[str, Any]:
    with _alone():
        return ocp.checkpointables_metadata(str(checkpoint.resolve())).metadata


def named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of a tree's leaves by their path, whatever its containers: `a/b/0`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(map(_key_name, path)): tuple(leaf.shape) for path, leaf in leaves}


def _key_name(key: Any) -> str:
    return str(next(getattr(key, n) for n in ("name", "key", "idx") if hasattr(key, n)))


def load(checkpoint: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint folder with the shapes and shardings of `parts`."""
    return ocp.load_checkpointables(str(checkpoint.resolve()), parts)


def read_on_host(checkpoint: Path, parts: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint folder as NumPy arrays, read by this process alone."""
    empty = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), parts)
    with _alone():
        return ocp.load_checkpointables(str(checkpoint.resolve()), empty)


def read_weights(checkpoint: Path) -> dict[str, Any]:
    """Weights `params` and their average `ema` as NumPy arrays, whatever optimiser they had."""
    metadata = _metadata(checkpoint)
    parts = read_on_host(checkpoint, {name: metadata[name] for name in ("training", "ema")})
    return {"params": parts["training"]["params"], "ema": parts["ema"]}


def _alone() -> Any:
    """Within it Orbax waits for no other process."""
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return ocp.Context(multiprocessing_options=options)


def abstract_like(shapes: Any, shardings: Any) -> Any:
    """Shapes with shardings, as restoring wants them."""
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, shardings
    )
