"""Trains the residual diffusion model: `python -m edm3d.train --config=configs/ards.py`.

Run again with the same config, it goes on from the newest checkpoint. Flags set any field of the
config: `--config.train.steps=1000 --config.records=/data/records --config.run=runs/first`.
The config is a document; read `configs/ards.py`. `--profile_steps=100:103` records updates 100 to
102 into the run folder's `profile/`.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from edm3d import command, experiment, options, run_folder
from edm3d.data.cases import read_dataset_info
from edm3d.data.pipeline import (
    DAMAGED,
    check_patch_fits,
    example_at,
    open_training,
    train_batches,
)
from edm3d.data.validation import validation_batch
from edm3d.errors import InputError
from edm3d.laps import Laps
from edm3d.trainer import Trainer, Validator, build_trainer, run_key, zeros_like_batch
from edm3d.training import agreement, distributed
from edm3d.training import mesh as meshes
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.damage import Damage
from edm3d.training.disk import told_if_full
from edm3d.training.feed import Feed
from edm3d.training.lock import held_alone
from edm3d.training.log import RunLog, SilentLog, progress_line, validation_row
from edm3d.training.profile import check_steps, parse_steps
from edm3d.training.state import MAIN, TrainState, parameter_count
from edm3d.training.stop import Stop, stop_on_signal
from edm3d.warm_start import warm_started
from edm3d.watching import Watch, watch_over

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
PROFILE_STEPS = flags.DEFINE_string("profile_steps", None, "Updates to profile, FIRST:END.")
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


def train(config: Config, profile_steps: range | None = None, *, stopped_code: int = 0) -> bool:
    """Trains until `config.train.steps` updates are made, or a signal asks for a stop.

    Returns whether all are made. A stop before the first update exits with `stopped_code`.
    """
    records, run = Path(config.records), Path(config.run)
    experiment.check_numbers(config)
    check_steps(profile_steps, first=0, end=config.train.steps)
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
            if jax.process_index() == 0:
                held.enter_context(held_alone(run))
            distributed.wait_for_all("run folder is held")
            checkpoints, newest = run_folder.prepare(
                run, config.to_dict(), records, trainer.abstract
            )
            held.callback(checkpoints.close)
            state = _start(trainer, checkpoints, newest, config)
            check_steps(profile_steps, first=int(state.step), end=config.train.steps)
            update = trainer.compiled_step(*_examples(config))
            watch = watch_over(config, trainer, objective, profile_steps)
            distributed.wait_for_all("all is compiled")
        return _loop(config, trainer, update, state, checkpoints, validator, stop, watch)


def _loop(
    config: Config,
    trainer: Trainer,
    update: Callable,
    state: TrainState,
    checkpoints: Checkpoints,
    validator: Validator | None,
    stop: Stop,
    watch: Watch,
) -> bool:
    section, step = config.train, int(state.step)
    _announce(config, trainer, step)
    key, laps = run_key(trainer.mesh, config.seed), Laps(config, checkpoints, step)
    agreed, damage = agreement.Agreement(trainer.mesh, stop.asked), _damage(config)
    writes = jax.process_index() == 0
    log = RunLog(Path(config.run), first_step=step) if writes else SilentLog()
    with contextlib.ExitStack() as held:
        feed = _feed(config, trainer, step, damage)
        for open_one in (feed, log, watch.profile):
            held.enter_context(contextlib.closing(open_one))
        while step < section.steps and not agreed.reached:
            if (batch := feed.take(agreed.alone)) is None:
                break
            watch.profile.before(step)
            state, measured = update(state, agreed.flagged(batch), key)
            watch.profile.after(step, measured)
            laps.add(measured)
            step += 1
            if (older := laps.sent(RUN_AHEAD)) is not None:
                agreed.hear(jax.block_until_ready(older))
            last = step == section.steps
            if step % section.log_every == 0 or last:
                done, values = laps.finish(step)
                agreed.hear(*done)
                values |= watch.gauges.read(step, values["patches_per_s"], feed.waited_s)
                values |= damage.counts()
                if validator and (step % section.validate_every == 0 or last):
                    values |= _validate(validator, state, laps, agreed)
                    laps.validated(step, values["validation_loss"])
                with told_if_full(f"the measurements of step {step}", checkpoints.folder):
                    log.write(step, values)
                print(progress_line(step, section.steps, values), flush=True)
            if watch.sheet_due(step):
                jax.block_until_ready(measured["loss"])  # still training's time
                with laps.stopwatch.paused():
                    with told_if_full(f"the sheet of step {step}", checkpoints.folder):
                        watch.draw_sheet(log, step, state, agreed.now)
            if step % section.checkpoint_every == 0:
                checkpoints.save(state, laps.saved(step))
    if step > 0:  # else there is nothing worth keeping, and the folder stays free
        checkpoints.save(state, laps.saved(step), wait=True)
    stopped = step < section.steps
    end = "stopped by a signal, run again to go on," if stopped else "finished"
    print(f"{end} after {step} updates; run folder {config.run}", flush=True)
    return not stopped


def _feed(config: Config, trainer: Trainer, first: int, damage: Damage) -> Feed:
    """Batches on the devices, from that of update `first` on; each process reads its own rows.

    `damage` counts the records that are left out.
    """
    mesh, batch_size = trainer.mesh, config.train.batch
    rows = meshes.rows_here(mesh, batch_size)
    batches = train_batches(
        Path(config.records),
        patch=options.patches_of(config),
        batch=batch_size,
        seed=config.seed,
        rows=rows,
        first_step=first,
        workers=config.train.workers,
        replace_damaged=config.train.skip_bad_records > 0,
    )

    def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        damage.note(batch.pop(DAMAGED, None))
        return meshes.rows_to_devices(mesh, batch, rows=rows, batch=batch_size)

    return Feed(batches, put)


def _damage(config: Config) -> Damage:
    _, cases = open_training(Path(config.records))
    return Damage(config.train.skip_bad_records, cases.fault_of)


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
    validator: Validator, state: TrainState, laps: Laps, agreed: agreement.Agreement
) -> dict[str, float | None]:
    with laps.stopwatch.paused():
        return validation_row(validator.losses(state.ema[MAIN], agreed.now), validator.sigma)


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


def _examples(config: Config) -> list[dict[str, np.ndarray]]:
    """Zeros in the shapes of global batches, one for each size of patch."""
    info, cases = open_training(Path(config.records))
    replace, batches = config.train.skip_bad_records > 0, []
    for side, _ in options.patches_of(config):
        one = example_at(cases, info, 0, patch=side, seed=0, replace_damaged=replace)
        one.pop(DAMAGED, None)
        rows = {name: array[None] for name, array in one.items()}
        batches.append(zeros_like_batch(rows, config.train.batch))
    return batches


def main(_: list[str]) -> None:
    if CONFIG.value is None:
        raise InputError("flag --config is missing; give a config file such as configs/ards.py")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    profile_steps = parse_steps(PROFILE_STEPS.value)
    place = distributed.place_of(DISTRIBUTED.value, os.environ)
    errors = command.bad_input_exits_2(OSError)
    with distributed.joined(place, start_timeout_s=START_TIMEOUT_S.value, errors=errors):
        finished = train(CONFIG.value, profile_steps, stopped_code=STOPPED_CODE.value)
    if not finished:
        sys.exit(STOPPED_CODE.value)


if __name__ == "__main__":
    command.run(main)
