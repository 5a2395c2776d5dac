"""What a run costs beside its compiled steps: data, metrics, log rows and checkpoints.

    python benchmarks/overhead.py

A small network whose update takes about half a second on a CPU goes through the loop of
`edm3d.train`, in turns with the compiled step alone. Three figures:

- `wall`: an update of the loop over one of the step alone. Here the readers of data take cores from
  the step, which on an accelerator they do not.
- what the main thread spends on fetching a batch, on a log row and on a checkpoint, without its
  waiting for the device: all that can hold up an accelerator.
- their sum at the intervals of configs/ards.py and at dense ones, over the step: the goal is 3 %.

Prints a table and writes benchmarks/results/overhead.json.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax
from ml_collections import ConfigDict
from pipeline import write_scans
from provenance import origin, write_result

from edm3d import train as command
from edm3d.data.cases import ScalarRanges, read_dataset_info
from edm3d.data.records import write_records
from edm3d.data.shards import RecordSettings
from edm3d.experiment import objective_of
from edm3d.trainer import Trainer, build_trainer, run_key
from edm3d.training import mesh as meshes
from edm3d.training.gauges import Gauges

ROOT = Path(__file__).resolve().parents[1]
STEPS, ALONE = 26, 13  # updates of one run, and of the step alone
MEASURED = (1, 10)  # updates from row to row and from checkpoint to checkpoint where measured
ROW = ("_collect", "read", "write", "progress_line")  # calls that make a log row
BLOCK = jax.block_until_ready
# updates from log row to log row, from checkpoint to checkpoint
INTERVALS = {"as ards.py": (100, 1000), "dense": (10, 20), "densest": (1, 5)}
GOAL = 0.03


def make_records(folder: Path) -> Path:
    """Records of scans of 150 x 136 x 136 voxels at 2 mm, about a pig's chest."""
    settings = RecordSettings(
        spacing_mm=2.0,
        window_hu=(-1024.0, 1024.0),
        block=160,
        antialias=False,
        mu_water_per_mm=0.0206,
        scalar_ranges=ScalarRanges((3.0, 15.0), (6.0, 12.0)),
    )
    write_records(write_scans(folder, (150, 136, 136)), folder / "records", settings, seed=0)
    return folder / "records"


def config_of(records: Path, patch: int, channels: int) -> ConfigDict:
    """configs/ards.py with a network so small that a CPU's update takes about half a second."""
    path = ROOT / "configs/ards.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.records, config.patch = str(records), patch
    config.model.update(channels=channels, channel_mult=(1, 2), blocks=1, attention_levels=())
    config.model.update(dropout=0.0, dtype="float32", remat="none")
    config.train.update(batch=2, patches_per_device=0, workers=0, sheet_every=0, steps=STEPS)
    config.train.validate_every = 1000  # a part of the training, not of what surrounds it
    return config


class Spans:
    """Seconds of the main thread by what it did; waiting for the device is apart."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.updates: list[float] = []  # when each was handed over
        self._waited = 0.0

    def of(self, name: str, function: Callable, *, wait_for: Callable | None = None) -> Callable:
        """`function`, its seconds noted; `wait_for(*args)` is waited for before."""

        def call(*args, **options):
            if wait_for:
                self.wait(wait_for(*args))
            start, waited = time.perf_counter(), self._waited
            try:
                return function(*args, **options)
            finally:
                inner = self._waited - waited
                self.seconds.setdefault(name, []).append(time.perf_counter() - start - inner)

        return call

    def wait(self, arrays):
        """Blocks, and keeps the time out of what is noted around it."""
        start = time.perf_counter()
        ready = BLOCK(arrays)
        self._waited += time.perf_counter() - start
        return ready

    def update(self, step: Callable) -> Callable:
        """`step`, the time of each call noted."""

        def call(*args):
            self.updates.append(time.perf_counter())
            return step(*args)

        return call


@contextlib.contextmanager
def watched(spans: Spans) -> Iterator[None]:
    """Within it a run's loop notes its spans."""
    with contextlib.ExitStack() as held:

        def patch(owner, name: str, **options) -> None:
            timed = spans.of(name, getattr(owner, name), **options)
            held.enter_context(mock.patch.object(owner, name, timed))

        patch(command.Feed, "take")
        patch(command.Checkpoints, "save", wait_for=lambda _, state: state)
        patch(command, "_collect")
        patch(command.RunLog, "write")
        patch(command, "progress_line")
        patch(Gauges, "read")
        fetch = jax.device_get
        held.enter_context(
            mock.patch.object(jax, "device_get", lambda tree: fetch(spans.wait(tree)))
        )
        held.enter_context(mock.patch.object(jax, "block_until_ready", spans.wait))
        yield


def run_loop(config: ConfigDict, trainer: Trainer, compiled: Callable) -> Spans:
    """The spans of one run of `STEPS` updates, all compiled before."""
    spans = Spans()
    step = dataclasses.replace(trainer)
    object.__setattr__(step, "compiled_step", lambda _: spans.update(compiled))
    with mock.patch.object(command, "build_trainer", lambda *_: step), watched(spans):
        command.train(config)
    if len(spans.updates) < STEPS:
        raise SystemExit("stopped by a signal: nothing is written")
    return spans


def seconds_alone(trainer: Trainer, compiled: Callable, batch: dict, seed: int) -> float:
    """Median seconds of the compiled step, as the loop sends it: two ahead."""
    state, key = trainer.init(jax.random.key(seed)), run_key(trainer.mesh, seed)
    on_devices = meshes.to_devices(trainer.mesh, batch)
    times, losses = [], []
    for _ in range(ALONE):
        state, measured = compiled(state, on_devices, key)
        losses.append(measured["loss"])
        jax.block_until_ready(losses[-3:][0])
        times.append(time.perf_counter())
    return statistics.median(b - a for a, b in itertools.pairwise(times[3:]))


def main_thread_share(events: dict[str, float], every: tuple[int, int], step_s: float) -> float:
    """What the main thread adds to an update, over the step."""
    log_every, checkpoint_every = every
    row = sum(events[name] for name in ROW)
    per_update = events["take"] + row / log_every + events["save"] / checkpoint_every
    return per_update / step_s


def measure(rounds: int, patch: int, channels: int) -> dict:
    """Everything that is told, from `rounds` turns of the step alone and the loop."""
    with tempfile.TemporaryDirectory() as name:
        config = config_of(make_records(Path(name)), patch, channels)
        objective = objective_of(config, read_dataset_info(config.records))
        trainer = build_trainer(config, objective)
        example = command._example(config)
        compiled = trainer.compiled_step(example)
        alone, loops, spans = [], [], []
        for turn in range(rounds):
            alone.append(seconds_alone(trainer, compiled, example, config.seed))
            config.run = f"{name}/run{turn}"
            config.train.log_every, config.train.checkpoint_every = MEASURED
            spans.append(run_loop(config, trainer, compiled))
            gaps = [b - a for a, b in itertools.pairwise(spans[-1].updates[5:])]
            loops.append(statistics.fmean(gaps))
            print(f"round {turn}: step alone {alone[-1]:.3f} s, in the loop {loops[-1]:.3f} s")
    events = {
        name: statistics.median(t for s in spans for t in s.seconds[name])
        for name in ("take", "save", *ROW)
    }
    step_s = statistics.median(alone)
    return {
        "step_alone_s": step_s,
        "wall_ratio": statistics.median(b / a for a, b in zip(alone, loops, strict=True)),
        "wall_ratio_lowest": min(b / a for a, b in zip(alone, loops, strict=True)),
        "main_thread_ms": {name: 1000 * t for name, t in events.items()},
        "share_of_half_a_second": {
            name: main_thread_share(events, every, 0.5) for name, every in INTERVALS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patch", type=int, default=24)
    parser.add_argument("--channels", type=int, default=16)
    options = vars(parser.parse_args())
    about = origin(("jax", "jaxlib", "grain", "orbax-checkpoint", "edm3d")) | options
    found = measure(**options)
    print(f"{'step alone':>34} {found['step_alone_s']:10.3f} s")
    print(f"{'update in the loop / step alone':>34} {found['wall_ratio']:10.3f} (median of rounds)")
    for name, ms in found["main_thread_ms"].items():
        print(f"{'main thread, one ' + name:>34} {ms:10.3f} ms")
    for name, share in found["share_of_half_a_second"].items():
        verdict = "" if share < GOAL else f", above the goal of {GOAL:.0%}"
        print(f"{'main thread of 0.5 s, ' + name:>34} {share:10.3%}{verdict}")
    print(f"written to {write_result('overhead', {**about, **found})}")


if __name__ == "__main__":
    main()
