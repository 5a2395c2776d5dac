"""Trains the residual diffusion model: `python -m edm3d.train --config=configs/ards.py`.

Run again with the same config, it goes on from the newest checkpoint. Flags set any field of the
config: `--config.train.steps=1000 --config.records=/data/records --config.run=runs/first`.
The config is a document; read `configs/ards.py`.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from edm3d import command, experiment, options, run_folder
from edm3d.data.cases import DatasetInfo, read_cases, read_dataset_info
from edm3d.data.pipeline import check_patch_fits, patch_batch, train_batches
from edm3d.data.validation import validation_batch
from edm3d.errors import InputError
from edm3d.trainer import Trainer, Validator, build_trainer, run_key, zeros_like_batch
from edm3d.training import agreement, distributed
from edm3d.training import mesh as meshes
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.disk import told_if_full
from edm3d.training.feed import Feed
from edm3d.training.lock import held_alone
from edm3d.training.log import RunLog, SilentLog, Stopwatch, progress_line, summarise
from edm3d.training.retention import Saved, last_good
from edm3d.training.state import MAIN, TrainState, parameter_count
from edm3d.training.stop import Stop, stop_on_signal
from edm3d.training.tally import Culprits, Tally
from edm3d.warm_start import warm_started

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "none",
    distributed.KINDS,
    "How this process finds the others of its job: by SLURM's variables, by a TPU pod's, or by "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (env).",
)
START_TIMEOUT_S = flags.DEFINE_integer(
    "start_timeout_s", 50, "How long the processes of a job wait for each other to start."
)
STOPPED_CODE = flags.DEFINE_integer(
    "stopped_code", 0, "Exit code after a stop by a signal, for launchers that start again on it."
)

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know
RUN_AHEAD = 2  # steps sent to the device before the oldest must be done


def train(config: Config, *, stopped_code: int = 0) -> bool:
    """Trains until `config.train.steps` updates are made, or a signal asks for a stop.

    Returns whether all are made. A stop before the first update exits with `stopped_code`.
    """
    records, run = Path(config.records), Path(config.run)
    experiment.check_numbers(config)
    info = read_dataset_info(records)
    experiment.check_data(config, info)
    for side in (config.patch, *(side for side, _ in options.patches_of(config))):
        experiment.check_patch(side, len(config.model.channel_mult))
        check_patch_fits(info, side)
    objective = experiment.objective_of(config, info)
    with stop_on_signal() as stop, contextlib.ExitStack() as held:
        farewell = "stopped by a signal before an update was made; nothing is lost"
        with stop.at_once(farewell, stopped_code):
            trainer = build_trainer(config, objective)
            validator = _validator(config, trainer)
            first = jax.process_index() == 0
            if first:
                held.enter_context(held_alone(run))
            distributed.wait_for_all("run folder is held")
            checkpoints, newest = run_folder.prepare(
                run, config.to_dict(), records, trainer.abstract
            )
            held.callback(checkpoints.close)
            state = _start(trainer, checkpoints, newest, config)
            update = trainer.compiled_step(*_examples(config, info))
            distributed.wait_for_all("the step is compiled")
        return _loop(config, trainer, update, state, checkpoints, validator, stop)


def _loop(
    config: Config,
    trainer: Trainer,
    update: Callable,
    state: TrainState,
    checkpoints: Checkpoints,
    validator: Validator | None,
    stop: Stop,
) -> bool:
    section, step = config.train, int(state.step)
    _announce(config, trainer, step)
    key, watch = run_key(trainer.mesh, config.seed), Stopwatch(step)
    waiting: list[dict] = []
    first = jax.process_index() == 0
    log = RunLog(Path(config.run), first_step=step) if first else SilentLog()
    agreed = agreement.Agreement(trainer.mesh, stop.asked)
    before = [saved for saved in checkpoints.saved() if saved.step == step]
    tally, culprits = Tally(*before), Culprits()
    scores: dict[int, float | None] = {}  # validation losses by step
    with contextlib.closing(_feed(config, trainer, step)) as feed, contextlib.closing(log):
        while step < section.steps and not agreed.reached:
            if (batch := feed.take(agreed.alone)) is None:
                break
            state, measured = update(state, agreed.flagged(batch), key)
            waiting.append(measured)
            tally.add(measured)
            step += 1
            if len(waiting) > RUN_AHEAD:
                agreed.hear(jax.block_until_ready(waiting[-1 - RUN_AHEAD]))
            last = step == section.steps
            if step % section.log_every == 0 or last:
                done = jax.device_get(waiting)
                waiting.clear()
                agreed.hear(*done)
                values = _collect(done, config, watch, step, culprits, checkpoints)
                if validator and (step % section.validate_every == 0 or last):
                    values["validation_loss"] = _validate(validator, state, watch, agreed)
                    scores = {step: values["validation_loss"]}
                with told_if_full(f"the measurements of step {step}", checkpoints.folder):
                    log.write(step, values)
                print(progress_line(step, section.steps, values), flush=True)
            if step % section.checkpoint_every == 0:
                checkpoints.save(state, tally.saved(step, scores.get(step)))
    if step > 0:  # else there is nothing worth keeping, and the folder stays free
        checkpoints.save(state, tally.saved(step, scores.get(step)), wait=True)
    stopped = step < section.steps
    end = "stopped by a signal, run again to go on," if stopped else "finished"
    print(f"{end} after {step} updates; run folder {config.run}", flush=True)
    return not stopped


def _feed(config: Config, trainer: Trainer, first: int) -> Feed:
    """Batches on the devices, from that of update `first` on; each process reads its own rows."""
    mesh, batch = trainer.mesh, config.train.batch
    rows = meshes.rows_here(mesh, batch)
    batches = train_batches(
        Path(config.records),
        patch=options.patches_of(config),
        batch=batch,
        seed=config.seed,
        rows=rows,
        first_step=first,
        workers=config.train.workers,
    )
    return Feed(batches, partial(meshes.rows_to_devices, mesh, rows=rows, batch=batch))


def _collect(
    measured: list[dict],
    config: Config,
    watch: Stopwatch,
    step: int,
    culprits: Culprits,
    checkpoints: Checkpoints,
) -> dict:
    """Means of the last steps with their speed; ends a run that has lost its way."""
    values = summarise(measured)
    steps, seconds = watch.lap(step)
    values["steps_per_s"] = steps / seconds
    values["patches_per_s"] = steps * config.train.batch / seconds
    culprits.add(measured, last_step=step)
    in_a_row = max(int(m["skipped_in_a_row"]) for m in measured)
    if in_a_row >= config.train.stop_after_skipped:
        raise InputError(
            f"loss or update were not finite in {in_a_row} steps in a row up to step {step}; "
            f"{culprits.told()}; {_way_on(config.run, last_good(checkpoints.saved()))}"
        )
    return values


def _way_on(run: str, good: Saved | None) -> str:
    """What to do after a run has lost its way."""
    mend = "lower optimizer.learning_rate or look at these records"
    if good is None:
        return f"{mend} and start anew: no checkpoint is good"
    return (
        f"the newest good checkpoint is of step {good.step}; {mend} and go on from it with "
        f"--config.warm_start={run}@{good.step} and another config.run"
    )


def _validator(config: Config, trainer: Trainer) -> Validator | None:
    """Scores weights on held-back subjects with noise that never changes; None without them."""
    batch = validation_batch(
        Path(config.records),
        patch=config.patch,
        count=config.train.validation_patches,
        seed=config.seed,
    )
    return None if batch is None else Validator(trainer, batch, **_noise_levels(config))


def _validate(
    validator: Validator, state: TrainState, watch: Stopwatch, agreed: agreement.Agreement
) -> float | None:
    start = time.perf_counter()
    losses = validator.losses(state.ema[MAIN], agreed.now)
    watch.pause(time.perf_counter() - start)
    return float(np.mean(losses)) if losses is not None and np.isfinite(losses).all() else None


def _noise_levels(config: Config) -> dict[str, float]:
    return {name: config.edm[name] for name in ("p_mean", "p_std")}


def _start(
    trainer: Trainer, checkpoints: Checkpoints, newest: int | None, config: Config
) -> TrainState:
    """The state of checkpoint `newest`, or a fresh one, born with its sharding."""
    if newest is None:
        fresh = trainer.init(run_key(trainer.mesh, config.seed))
        if not config.warm_start:
            return fresh
        return warm_started(fresh, config.warm_start, config.to_dict())
    ignored = f"; warm_start={config.warm_start} is ignored" if config.warm_start else ""
    print(f"resuming {config.run} after {newest} updates{ignored}", flush=True)
    return checkpoints.restore(newest, trainer.abstract)


def _announce(config: Config, trainer: Trainer, first: int) -> None:
    _, schedule = experiment.optimizer_of(config)
    steps = config.train.steps
    sides = " or ".join(f"{side}^3" for side, _ in options.patches_of(config))
    print(
        f"{parameter_count(trainer.abstract.params) / 1e6:.2f} M parameters on mesh "
        f"{dict(trainer.mesh.shape)} ({jax.default_backend()}), batch {config.train.batch} of "
        f"{sides}, updates {first}..{steps}, learning rate reaches "
        f"{float(schedule(steps - 1)):.2e}",
        flush=True,
    )


def _examples(config: Config, info: DatasetInfo) -> list[dict[str, np.ndarray]]:
    """Zeros in the shapes of global batches, one for each size of patch."""
    case = read_cases(Path(config.records), "train")[0]
    ones = (
        patch_batch(case, info, start_zyx=(0, 0, 0), patch=side)
        for side, _ in options.patches_of(config)
    )
    return [zeros_like_batch(one, config.train.batch) for one in ones]


def main(_: list[str]) -> None:
    if CONFIG.value is None:
        raise InputError("flag --config is missing; give a config file such as configs/ards.py")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    place = distributed.place_of(DISTRIBUTED.value, os.environ)
    errors = command.bad_input_exits_2(OSError)
    with distributed.joined(place, start_timeout_s=START_TIMEOUT_S.value, errors=errors):
        finished = train(CONFIG.value, stopped_code=STOPPED_CODE.value)
    if not finished:
        sys.exit(STOPPED_CODE.value)


if __name__ == "__main__":
    command.run(main)
