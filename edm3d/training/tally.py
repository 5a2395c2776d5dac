"""What a run notes of its steps: for the next checkpoint, and for the day it loses its way."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from edm3d.training.noise_levels import SIGMA_EDGES, sigma_bin_names
from edm3d.training.retention import Saved

MOST_NAMED = 8  # examples in a message


class Tally:
    """Gathers what is measured between two saves, for `Saved`."""

    def __init__(self, before: Saved | None = None):
        """`before` is the checkpoint that the run goes on from."""
        lowest = None if before is None else before.lowest_loss
        self._lowest = math.inf if lowest is None else lowest
        self._steps: list[tuple[Any, Any]] = []

    def add(self, measured: Mapping[str, Any]) -> None:
        """Notes a step's measurements; arrays stay on the device, nothing waits for them."""
        self._steps.append((measured["loss"], measured["skipped_in_a_row"]))

    def saved(self, step: int, validation_loss: float | None = None) -> Saved:
        """What is known of a checkpoint after `step`; the next one starts from nothing."""
        steps, self._steps = jax.device_get(self._steps), []
        losses = [float(loss) for loss, in_a_row in steps if not in_a_row]
        loss = float(np.mean(losses)) if losses else None
        if loss is not None:
            self._lowest = min(self._lowest, loss)
        lowest = self._lowest if math.isfinite(self._lowest) else None
        return Saved(step, loss, lowest, len(steps) - len(losses), validation_loss)


class Culprits:
    """Which rows of the steps that were skipped one after another had no finite loss."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, float]] = []  # example, step, sigma

    def add(self, measured: Sequence[Mapping[str, np.ndarray]], *, last_step: int) -> None:
        """Notes measurements of successive steps up to update `last_step`; a good one clears."""
        for step, m in enumerate(measured, start=last_step - len(measured) + 1):
            if int(m["skipped_in_a_row"]) <= 1:
                self._rows.clear()
            if int(m["skipped_in_a_row"]):
                losses, sigma = np.asarray(m["losses"]), np.asarray(m["sigma"])
                self._rows += [
                    ((step - 1) * len(losses) + int(row), step, float(sigma[row]))
                    for row in np.flatnonzero(~np.isfinite(losses))
                ]

    def told(self) -> str:
        """The noise levels and the examples, numbered as `edm3d.data.pipeline` does."""
        if not self._rows:
            return "every loss was finite, but the gradient or the update was not"
        names = np.array(sigma_bin_names())
        bins, counts = np.unique(
            np.digitize([sigma for *_, sigma in self._rows], SIGMA_EDGES), return_counts=True
        )
        levels = ", ".join(f"{names[b]} ({n})" for b, n in zip(bins, counts, strict=True))
        examples = ", ".join(f"{g} (step {s})" for g, s, _ in self._rows[:MOST_NAMED])
        more = len(self._rows) - MOST_NAMED
        return (
            f"rows without a finite loss by sigma: {levels}; their examples: {examples}"
            f"{f' and {more} more' if more > 0 else ''}"
        )
