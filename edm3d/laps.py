"""What a run measures between two rows of its log and between two checkpoints.

Used by `edm3d.train`. It ends a run that has lost its way.
"""

from typing import Any

import jax

from edm3d.errors import InputError
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.log import Stopwatch, summarise
from edm3d.training.retention import Saved, last_good
from edm3d.training.tally import Culprits, Tally

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know


class Laps:
    """Gathers the measurements of steps; `stopwatch` leaves out what is not training."""

    def __init__(self, config: Config, checkpoints: Checkpoints, step: int):
        self._config, self._checkpoints = config, checkpoints
        self.stopwatch = Stopwatch(step)
        self._tally = Tally(*(saved for saved in checkpoints.saved() if saved.step == step))
        self._culprits = Culprits()
        self._waiting: list[dict] = []
        self._score: tuple[int, float | None] = (-1, None)

    def add(self, measured: dict) -> None:
        """Notes a step's measurements, which stay on the device."""
        self._waiting.append(measured)
        self._tally.add(measured)

    def sent(self, ahead: int) -> dict | None:
        """The measurements of the step that has `ahead` newer ones, if it is of this lap."""
        return self._waiting[-1 - ahead] if len(self._waiting) > ahead else None

    def finish(self, step: int) -> tuple[list[dict], dict[str, Any]]:
        """The measurements of the lap that ends after `step`, and a row of their means and speed.

        Raises:
            InputError: `train.stop_after_skipped` steps in a row were not finite.
        """
        done, self._waiting = jax.device_get(self._waiting), []
        values = summarise(done)
        steps, seconds = self.stopwatch.lap(step)
        values["steps_per_s"] = steps / seconds
        values["patches_per_s"] = steps * self._config.train.batch / seconds
        self._culprits.add(done, last_step=step)
        in_a_row = max(int(m["skipped_in_a_row"]) for m in done)
        if in_a_row >= self._config.train.stop_after_skipped:
            good = last_good(self._checkpoints.saved())
            raise InputError(
                f"loss or update were not finite in {in_a_row} steps in a row up to step {step}; "
                f"{self._culprits.told()}; {_way_on(self._config.run, good)}"
            )
        return done, values

    def validated(self, step: int, loss: float | None) -> None:
        """Notes the validation loss after `step`, for a checkpoint of that step."""
        self._score = (step, loss)

    def saved(self, step: int) -> Saved:
        """What is known of a checkpoint after `step`; the next one starts from nothing."""
        scored, loss = self._score
        return self._tally.saved(step, loss if scored == step else None)


def _way_on(run: str, good: Saved | None) -> str:
    """What to do after a run has lost its way."""
    mend = "lower optimizer.learning_rate or look at these records"
    if good is None:
        return f"{mend} and start anew: no checkpoint is good"
    return (
        f"the newest good checkpoint is of step {good.step}; {mend} and go on from it with "
        f"--config.warm_start={run}@{good.step} and another config.run"
    )
