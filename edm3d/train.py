"""Trains the residual diffusion model: `python -m edm3d.train --config=configs/ards.py`.

Run again with the same config, it goes on from the newest checkpoint. Flags set any field of the
config: `--config.train.steps=1000 --config.records=/data/records --config.run=runs/first`.
The config is a document; read `configs/ards.py`. `--profile_steps=100:103` records updates 100 to
102 into the run folder's `profile/`.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from edm3d import command, experiment
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
from edm3d.trainer import Trainer, Validator, build_trainer, run_key, zeros_like_batch
from edm3d.training import mesh as meshes
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.damage import Damage
from edm3d.training.feed import Feed
from edm3d.training.lock import held_alone
from edm3d.training.log import (
    RunLog,
    Stopwatch,
    progress_line,
    summarise,
    validation_row,
)
from edm3d.training.profile import check_steps, parse_steps
from edm3d.training.state import TrainState, parameter_count
from edm3d.training.stop import Stop, stop_on_signal
from edm3d.watching import Watch, watch_over

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
PROFILE_STEPS = flags.DEFINE_string("profile_steps", None, "Updates to profile, FIRST:END.")

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know
RUN_AHEAD = 2  # steps sent to the device before the oldest must be done


def train(config: Config, profile_steps: range | None = None) -> None:
    """Trains until `config.train.steps` updates are made, or a signal asks for a stop."""
    records, run = Path(config.records), Path(config.run)
    experiment.check_numbers(config)
    check_steps(profile_steps, first=0, end=config.train.steps)
    info = read_dataset_info(records)
    experiment.check_data(config, info)
    experiment.check_patch(config.patch, len(config.model.channel_mult))
    check_patch_fits(info, config.patch)
    objective = experiment.objective_of(config, info)
    with stop_on_signal() as stop, contextlib.ExitStack() as held:
        with stop.at_once("stopped by a signal before an update was made; nothing is lost"):
            trainer = build_trainer(config, objective)
            validator = _validator(config, trainer)
            if jax.process_index() == 0:
                held.enter_context(held_alone(run))
            checkpoints = _prepare_run_folder(run, config, records)
            held.callback(checkpoints.close)
            state = _start(trainer, checkpoints, config)
            check_steps(profile_steps, first=int(state.step), end=config.train.steps)
            update = trainer.compiled_step(_example(config))
            watch = watch_over(config, trainer, objective, profile_steps)
        _loop(config, trainer, update, state, checkpoints, validator, stop, watch)


def _loop(
    config: Config,
    trainer: Trainer,
    update: Callable,
    state: TrainState,
    checkpoints: Checkpoints,
    validator: Validator | None,
    stop: Stop,
    watch: Watch,
) -> None:
    section, step = config.train, int(state.step)
    _announce(config, trainer, step)
    key, stopwatch = run_key(trainer.mesh, config.seed), Stopwatch(step)
    damage = _damage(config)
    waiting: list[dict] = []
    log = RunLog(Path(config.run), first_step=step)
    with contextlib.ExitStack() as held:
        feed = held.enter_context(contextlib.closing(_feed(config, trainer, step, damage)))
        for open_one in (log, watch.profile):
            held.enter_context(contextlib.closing(open_one))
        while step < section.steps and (batch := feed.take(stop.asked)) is not None:
            watch.profile.before(step)
            state, measured = update(state, batch, key)
            watch.profile.after(step, measured)
            waiting.append(measured)
            step += 1
            if len(waiting) > RUN_AHEAD:
                jax.block_until_ready(waiting[-1 - RUN_AHEAD]["loss"])
            last = step == section.steps
            if step % section.log_every == 0 or last:
                values = _collect(jax.device_get(waiting), section, stopwatch, step)
                waiting.clear()
                values |= watch.gauges.read(step, values["patches_per_s"], feed.waited_s)
                values |= damage.counts()
                if validator and (step % section.validate_every == 0 or last):
                    values |= _validate(validator, state, stopwatch, stop)
                log.write(step, values)
                print(progress_line(step, section.steps, values), flush=True)
            if watch.sheet_due(step):
                jax.block_until_ready(measured["loss"])  # still training's time
                with stopwatch.paused():
                    watch.draw_sheet(log, step, state, stop.asked)
            if step % section.checkpoint_every == 0:
                checkpoints.save(state)
    if step > 0:  # else there is nothing worth keeping, and the folder stays free
        checkpoints.save(state, wait=True)
    stopped = step < section.steps
    end = "stopped by a signal, run again to go on," if stopped else "finished"
    print(f"{end} after {step} updates; run folder {config.run}", flush=True)


def _feed(config: Config, trainer: Trainer, first: int, damage: Damage) -> Feed:
    """Batches on the devices, from that of update `first` on; `damage` counts what is left out."""
    batches = train_batches(
        Path(config.records),
        patch=config.patch,
        batch=config.train.batch,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        first_step=first,
        workers=config.train.workers,
        replace_damaged=config.train.skip_bad_records > 0,
    )

    def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        damage.note(batch.pop(DAMAGED, None))
        return meshes.to_devices(trainer.mesh, batch)

    return Feed(batches, put)


def _damage(config: Config) -> Damage:
    _, cases = open_training(Path(config.records))
    return Damage(config.train.skip_bad_records, cases.fault_of)


def _collect(measured: list[dict], section: Config, watch: Stopwatch, step: int) -> dict:
    """Means of the last steps with their speed; ends a run that has lost its way."""
    values = summarise(measured)
    steps, seconds = watch.lap(step)
    values["steps_per_s"] = steps / seconds
    values["patches_per_s"] = steps * section.batch / seconds
    in_a_row = max(int(m["skipped_in_a_row"]) for m in measured)
    if in_a_row >= section.stop_after_skipped:
        raise InputError(
            f"loss or update were not finite in {in_a_row} steps in a row up to step {step}; lower "
            f"optimizer.learning_rate or look for bad records; the last checkpoint is unharmed"
        )
    return values


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
    validator: Validator, state: TrainState, stopwatch: Stopwatch, stop: Stop
) -> dict[str, float | None]:
    with stopwatch.paused():
        return validation_row(validator.losses(state.ema, stop.asked), validator.sigma)


def _noise_levels(config: Config) -> dict[str, float]:
    return {name: config.edm[name] for name in ("p_mean", "p_std")}


def _start(trainer: Trainer, checkpoints: Checkpoints, config: Config) -> TrainState:
    """The newest checkpoint's state, or a fresh one, born with its sharding."""
    step = checkpoints.latest_step()
    if step is None:
        return trainer.init(jax.random.key(config.seed))
    print(f"resuming {config.run} after {step} updates", flush=True)
    return checkpoints.restore(step, trainer.abstract)


def _prepare_run_folder(run: Path, config: Config, records: Path) -> Checkpoints:
    """Writes config and dataset.json; refuses a folder that another config or data set trained."""
    content = experiment.json_of(config.to_dict())
    checkpoints = Checkpoints(run / "checkpoints", keep=config.train.keep_checkpoints)
    if checkpoints.latest_step() is not None:
        _check_same_run(run, content, records)
    dataset = experiment.read_json(records / "dataset.json")
    experiment.write_json(run / "dataset.json", dataset)
    experiment.write_json(run / "config.json", content)
    return checkpoints


def _check_same_run(run: Path, content: dict, records: Path) -> None:
    old = experiment.read_run_config(run)
    old["batch"], content = old["train"]["batch"], {**content, "batch": content["train"]["batch"]}
    for name in ("seed", "patch", "batch", "conditioning", "model", "edm", "data"):
        if old.get(name) != content[name]:
            raise InputError(
                f"run folder {run} was trained with {name} {old.get(name)}, now it is "
                f"{content[name]}; choose another config.run"
            )
    if read_dataset_info(run) != read_dataset_info(records):
        raise InputError(
            f"run folder {run} was trained on other records than {records}; choose another "
            f"config.run, or the records it was trained on"
        )


def _announce(config: Config, trainer: Trainer, first: int) -> None:
    _, schedule = experiment.optimizer_of(config)
    steps = config.train.steps
    print(
        f"{parameter_count(trainer.abstract.params) / 1e6:.2f} M parameters on mesh "
        f"{dict(trainer.mesh.shape)} ({jax.default_backend()}), batch {config.train.batch} of "
        f"{config.patch}^3, updates {first}..{steps}, learning rate reaches "
        f"{float(schedule(steps - 1)):.2e}",
        flush=True,
    )


def _example(config: Config) -> dict[str, np.ndarray]:
    """Zeros in the shapes of a global batch."""
    info, cases = open_training(Path(config.records))
    replace = config.train.skip_bad_records > 0
    one = example_at(cases, info, 0, patch=config.patch, seed=0, replace_damaged=replace)
    one.pop(DAMAGED, None)
    return zeros_like_batch({name: a[None] for name, a in one.items()}, config.train.batch)


def main(_: list[str]) -> None:
    if CONFIG.value is None:
        raise InputError("flag --config is missing; give a config file such as configs/ards.py")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    train(CONFIG.value, parse_steps(PROFILE_STEPS.value))


if __name__ == "__main__":
    command.run(main)
