"""What a run of a config is watched by: gauges, sample sheets, a profile; used by `edm3d.train`.

None of it touches the training: weights are bit for bit the same with and without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from edm3d import experiment, options
from edm3d.data.validation import validation_batch
from edm3d.diffusion.sampler import Churn
from edm3d.generation import Solver
from edm3d.report.sheet import rgb, sheet
from edm3d.sheets import Sheets
from edm3d.trainer import Trainer
from edm3d.training.costs import forward_flops
from edm3d.training.gauges import Gauges, peak_flops
from edm3d.training.log import RunLog, SilentLog
from edm3d.training.objective import Objective
from edm3d.training.profile import Profile
from edm3d.training.state import MAIN, Ema, TrainState

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know
SHEET_FOLDER = "samples_while_training"


@dataclass(frozen=True)
class Watch:
    """What looks on while a run trains."""

    gauges: Gauges
    sheets: Sheets | None
    sheet_every: int
    profile: Profile

    def sheet_due(self, step: int) -> bool:
        """Whether a sheet is to be drawn after `step` updates."""
        return self.sheets is not None and step % self.sheet_every == 0

    def draw_sheet(
        self, log: RunLog | SilentLog, step: int, state: TrainState, stop_asked: Callable[[], bool]
    ) -> None:
        """Draws with the averaged weights; writes a picture to the run folder and TensorBoard."""
        assert self.sheets is not None
        drawn = self.sheets.draw(state.ema[MAIN], stop_asked)
        if drawn is not None and jax.process_index() == 0:
            title = f"after {step} updates, averaged weights"
            figure = sheet(self.sheets.prior_hu, drawn, self.sheets.target_hu, title=title)
            log.picture(step, SHEET_FOLDER, rgb(figure))
        elif drawn is None and not stop_asked():
            print(f"no sample sheet after {step} updates: samples are not finite", flush=True)


def watch_over(
    config: Config, trainer: Trainer, objective: Objective, steps: range | None
) -> Watch:
    """Compiles what it draws sheets with; `steps` are the updates to profile, if any."""
    return Watch(
        gauges=_gauges(config, trainer, objective),
        sheets=_sheets(config, trainer, objective),
        sheet_every=config.train.sheet_every,
        profile=Profile(Path(config.run) / "profile", steps),
    )


def _gauges(config: Config, trainer: Trainer, objective: Objective) -> Gauges:
    _, schedule = experiment.optimizer_of(config)
    ema, batch, devices = Ema(**config.ema), config.train.batch, trainer.mesh.devices
    peak = peak_flops(devices.flat[0].device_kind, config.train.peak_tflops)
    return Gauges(
        learning_rate=schedule,
        ema_half_life=lambda update: ema.half_life(update, batch),
        forward_flops=sum(
            share * forward_flops(objective, side) for side, share in options.patches_of(config)
        ),
        peak=peak and peak * devices.size,
    )


def _sheets(config: Config, trainer: Trainer, objective: Objective) -> Sheets | None:
    """None without `train.sheet_every` or held-back cases."""
    train = config.train
    if not train.sheet_every:
        return None
    patches = validation_batch(
        Path(config.records), patch=config.patch, count=train.sheet_patches, seed=config.seed
    )
    if patches is None:
        return None
    levels = {**config.schedule, "steps": min(train.sheet_steps, config.schedule.steps)}
    solver = Solver(**levels, second_order=True, churn=Churn())
    return Sheets(trainer, objective, solver, patches, config.seed)
