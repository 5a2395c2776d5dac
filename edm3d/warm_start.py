"""A run that starts from another run's weights: `--config.warm_start=RUN` or `RUN@STEP`.

Weights and their average are taken over; the optimiser and the count of updates start anew.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from edm3d import experiment
from edm3d.errors import InputError
from edm3d.training.checkpoint import named_shapes, read_weights, shapes_saved
from edm3d.training.restore import differences, fault_of, whole_step
from edm3d.training.state import MAIN, TrainState

COMPARED = ("model", "conditioning", "edm", "data")  # what gives weights their meaning


def warm_started(fresh: TrainState, source: str, config: Mapping[str, Any]) -> TrainState:
    """`fresh` with the weights of `source`; tells which step and which fields differ.

    Every average starts from the main one there.

    Raises:
        InputError: no such run or checkpoint, or its network has other parameters.
    """
    run, step = parse(source)
    differing = _fields(experiment.read_run_config(run), experiment.json_of(config))

    def fault(checkpoint: Path) -> str | None:
        if wrong := differences(shapes_saved(checkpoint, "ema"), named_shapes(fresh.ema[MAIN])):
            raise InputError(
                f"warm_start {source}: its network is another one, {wrong}; the configs differ in "
                f"{differing or 'none of ' + ', '.join(COMPARED)}; make them agree or choose "
                f"another run"
            )
        return fault_of(checkpoint, {"ema": fresh.ema[MAIN]})

    step = whole_step(run, step, fault)
    weights = read_weights(run / "checkpoints" / str(step))
    print(
        f"starting from the weights of {run} after {step} updates"
        f"{f'; the configs differ in {differing}' if differing else ''}",
        flush=True,
    )
    params = _placed(weights["params"], fresh.params)
    ema = {name: _placed(weights["ema"], like) for name, like in fresh.ema.items()}
    return dataclasses.replace(fresh, params=params, ema=ema)


def parse(source: str) -> tuple[Path, int | None]:
    """Run folder and step of `RUN` or `RUN@STEP`."""
    run, at, step = source.rpartition("@")
    if not at:
        return Path(source), None
    if not run or not step.isdecimal():
        raise InputError(f"warm_start is {source!r}; give RUN or RUN@STEP, such as runs/first@2000")
    return Path(run), int(step)


def _placed(weights: Any, like: Any) -> Any:
    """Host arrays on the devices as `like`, each process placing its share."""

    def place(array: np.ndarray, leaf: jax.Array) -> jax.Array:
        array = array.astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: array[i])

    return jax.tree.map(place, weights, like)


def _fields(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The fields of the compared sections that differ, with both values."""
    old, new = (_flat({n: config.get(n, {}) for n in COMPARED}) for config in (there, here))
    names = [n for n in dict.fromkeys([*new, *old]) if old.get(n) != new.get(n)]
    return ", ".join(f"{n} ({old.get(n)} there, {new.get(n)} here)" for n in names)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        flat.update({f"{prefix}{name}": value} if inner is None else inner)
    return flat
