"""From which checkpoint a run goes on: the newest that can be read to its last byte.

A power cut or a full disk can leave files of a finished checkpoint short, empty or zeroed.
Reading finds that out, for TensorStore keeps checksums. Such a folder is renamed, never deleted.
"""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from edm3d.errors import InputError
from edm3d.training.checkpoint import (
    METRICS,
    load,
    named_shapes,
    part_of,
    parts_of,
    read_on_host,
    shapes_saved,
)
from edm3d.training.disk import errno_of, whole_steps
from edm3d.training.state import MAIN, TrainState

_NONE, _REFUSED = -1, -2
# A file that may not or cannot be read now is no torn file.
_NOT_NOW = (errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE)


def newest_whole(checkpoints: Path, abstract: TrainState) -> int | None:
    """The step to go on from, the same in every process; None in a folder without checkpoints.

    Newer ones that are torn are moved aside to `<step>.torn`, each told in a line.

    Raises:
        InputError: there are checkpoints, but none is whole, or the newest is of another model.
    """
    _by_the_first(lambda: _set_metrics_aside(checkpoints))
    parts = parts_of(abstract)
    while (step := _by_the_first(lambda: max(whole_steps(checkpoints), default=_NONE))) != _NONE:
        folder = checkpoints / str(step)
        # All read, for Orbax counts its operations in every process and waits where they differ.
        fault = _fault_anywhere(lambda folder=folder: fault_of(folder, parts))
        if fault is None:
            return step
        _by_the_first(lambda folder=folder, fault=fault: _move_aside(folder, fault))
    if torn := sorted(path.name for path in checkpoints.glob("*.torn*")):
        raise InputError(
            f"{checkpoints} holds no whole checkpoint, only {', '.join(torn)}; bring one back from "
            f"a copy, or choose another config.run to start anew"
        )
    return None


def _set_metrics_aside(checkpoints: Path) -> int:
    """Moves checkpoints without readable measurements aside: Orbax would not open the folder."""
    for step in whole_steps(checkpoints):
        if fault := _unreadable_metrics(checkpoints / str(step)):
            _move_aside(checkpoints / str(step), fault)
    return _NONE


def fault_of(checkpoint: Path, parts: dict[str, Any]) -> str | None:
    """Why a checkpoint's parts, of these shapes, cannot be read; None for a whole one.

    Raises:
        InputError: it is of another model, or may not be read.
    """
    try:
        saved = {part: shapes_saved(checkpoint, part) for part in parts}
    except Exception as error:
        return _torn(error, checkpoint)
    if empty := [part for part, shapes in saved.items() if not shapes]:
        return f"{' and '.join(empty)} names no array"  # what Orbax makes of a torn index
    wanted = {part: named_shapes(tree) for part, tree in parts.items()}
    if differing := ", ".join(filter(None, (differences(saved[p], wanted[p]) for p in parts))):
        raise InputError(
            f"checkpoint {checkpoint} is of another model or optimiser: {differing}; go on with "
            f"the config that made it, or choose another config.run"
        )
    try:
        read_on_host(checkpoint, parts)
    except Exception as error:
        return _torn(error, checkpoint)
    return None


def differences(saved: dict, wanted: dict, *, most: int = 3) -> str:
    """The first arrays that are in one only or differ in shape, in words; empty without any."""
    lines = []
    for name in [*wanted, *(n for n in saved if n not in wanted)]:
        here, there = saved.get(name, "none"), wanted.get(name, "none")
        if here != there:
            lines.append(f"{name} is {here} there and {there} here")
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return ", ".join(lines[:most]) + more


def _unreadable_metrics(checkpoint: Path) -> str | None:
    try:
        content = json.loads((checkpoint / METRICS).read_bytes())
    except FileNotFoundError:
        return f"{METRICS} is missing"
    except ValueError:
        return f"{METRICS} is no JSON"
    return None if isinstance(content, dict) else f"{METRICS} holds no table"


def _torn(error: Exception, checkpoint: Path) -> str:
    """What is wrong in a few words; raises where the fault is not the checkpoint's."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    told = " ".join(str(chain[-1]).split())[:200] or type(chain[-1]).__name__
    if any(isinstance(e, MemoryError) or errno_of(e) in _NOT_NOW for e in chain):
        raise InputError(
            f"checkpoint {checkpoint} cannot be read now: {told}; look at its permissions and at "
            f"the memory left, and run the same command again"
        ) from error
    return told


def _move_aside(checkpoint: Path, fault: str) -> int:
    names = (f"{checkpoint.name}.torn{n}" for n in ("", *(f".{k}" for k in range(2, 10_000))))
    aside = next(p for name in names if not (p := checkpoint.with_name(name)).exists())
    checkpoint.rename(aside)
    print(f"checkpoint {checkpoint} is torn ({fault}); moved to {aside.name}", flush=True)
    return int(checkpoint.name)


def _by_the_first(act: Callable[[], int]) -> int:
    """What process 0 finds or does; where it fails, all fail."""
    if jax.process_count() == 1:
        return act()
    found, failure = _REFUSED, None
    if jax.process_index() == 0:
        try:
            found = act()
        except Exception as error:
            failure = error
    found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if failure is not None:
        raise failure
    if found == _REFUSED:
        raise InputError("process 0 cannot go on from the run folder; its own line says why")
    return found


def _fault_anywhere(find: Callable[[], str | None]) -> str | None:
    """The fault that this process or another one finds; where one refuses, all do."""
    if jax.process_count() == 1:
        return find()
    fault, refusal = None, None
    try:
        fault = find()
    except InputError as error:
        refusal = error
    told = np.array([fault is not None, refusal is not None])
    torn, refused = np.any(multihost_utils.process_allgather(told), axis=0)
    if refusal is not None:
        raise refusal
    if refused:
        raise InputError("another process cannot go on from the run folder; its line says why")
    return (fault or "another process cannot read it") if torn else None


def read_ema(
    run: Path, abstract: Any, step: int | None = None, *, average: str = MAIN
) -> tuple[int, Any]:
    """The step and averaged weights of a run's newest whole (or the given) checkpoint.

    Raises:
        InputError: as `whole_step`; or the weights are of another network.
    """
    part = part_of(average)
    parts = {part: abstract}
    step = whole_step(run, step, lambda checkpoint: fault_of(checkpoint, parts))
    return step, load(run / "checkpoints" / str(step), parts)[part]


def whole_step(run: Path, step: int | None, fault: Callable[[Path], str | None]) -> int:
    """The step of a run's newest checkpoint without a fault, or `step` if it has none.

    Nothing is moved aside: the run may be training.

    Raises:
        InputError: the run folder holds no checkpoint, none of that step, or none that is whole.
    """
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"run folder {run} holds no checkpoint; train it first with edm3d.train")
    if not (steps := whole_steps(folder)):
        raise InputError(f"{folder} holds no whole checkpoint; let edm3d.train run on")
    if step is not None and step not in steps:
        raise InputError(f"checkpoint step {step} is not in {folder}; choose one of {steps}")
    for candidate in [step] if step is not None else reversed(steps):
        if (found := fault(folder / str(candidate))) is None:
            return candidate
        print(f"checkpoint {folder / str(candidate)} is torn ({found}); not read", flush=True)
    wanted = steps if step is None else [step]
    raise InputError(f"none of the checkpoints {wanted} in {folder} is whole; choose another")
