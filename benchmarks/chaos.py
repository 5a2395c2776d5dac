"""Does a training that is killed, stopped, torn and starved end with the weights of one left alone?

    python benchmarks/chaos.py [--faults=25] [--seed=0] [--work=FOLDER]

Small runs on the virtual records of the tests, by `python -m edm3d.train`. First one undisturbed,
then one in which every process is struck at a random moment until the faults are used up. Weights
and their average must agree bit for bit. Then another with fewer faults, whose (fake) devices
change in number at every restart: its batches must be the same, its losses equal within rounding.
Prints a table and writes benchmarks/results/chaos.json.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from chaos_faults import KINDS, MOMENTS, Fault, Process, moment_of, strike, tear_newest
from provenance import origin, write_result

from edm3d.data.manifest import read_manifest
from edm3d.data.records import write_records
from edm3d.training.checkpoint import read_weights
from edm3d.training.disk import whole_steps
from tests.data.phantoms import settings, write_cohort

ROOT = Path(__file__).resolve().parents[1]
DEVICES = (2, 8, 1, 4)  # one after another
CHECKPOINT_EVERY = 3
# Trains as the command does and notes a checksum of each batch that is made.
WITNESS = """
import sys, zlib
from edm3d import command, train

made = train.train_batches

def witnessed(*args, first_step, **kwargs):
    batches = made(*args, first_step=first_step, **kwargs)
    with open({path!r}, "a") as file:
        for step, batch in enumerate(batches, first_step):
            crc = 0
            for name in sorted(batch):
                crc = zlib.crc32(batch[name].tobytes(), crc)
            print(step, crc, file=file, flush=True)
            yield batch

train.train_batches = witnessed
command.run(train.main)
"""


@dataclass(frozen=True)
class Bench:
    """Where and how long the small runs train."""

    work: Path
    steps: int

    def run(self, name: str) -> Path:
        return self.work / name

    def start(self, name: str, devices: int, *, witness: bool = False) -> Process:
        """A training process of the run of this name."""
        code = WITNESS.format(path=str(self.work / f"{name}.batches"))
        program = ["-c", code] if witness else ["-m", "edm3d.train"]
        fields = {
            "records": self.work / "records",
            "run": self.run(name),
            "patch": 8,
            "data.spacing_mm": 8.0,
            "data.antialias": False,
            "data.block": 160,
            "model.channels": 4,
            "model.channel_mult": "(1,2)",
            "optimizer.ramp_updates": 2,
            "train.batch": 8,
            "train.steps": self.steps,
            "train.log_every": 1,
            "train.validate_every": CHECKPOINT_EVERY,
            "train.checkpoint_every": CHECKPOINT_EVERY,
            "train.keep_every": 10 * CHECKPOINT_EVERY,
        }
        flags = [f"--config.{field}={value}" for field, value in fields.items()]
        environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(self.work / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }
        command = [sys.executable, *program, f"--config={ROOT / 'configs/quickstart.py'}", *flags]
        return Process(command, environment)

    def losses(self, name: str) -> dict[int, float]:
        rows = (self.run(name) / "metrics.jsonl").read_text().splitlines()
        return {row["step"]: row["loss"] for row in map(json.loads, rows)}

    def batches(self, name: str) -> dict[int, set[str]]:
        """The checksums of all the times that a step's batch was made."""
        found: dict[int, set[str]] = {}
        for line in (self.work / f"{name}.batches").read_text().splitlines():
            step, crc = line.split()
            found.setdefault(int(step), set()).add(crc)
        return found


def make_records(work: Path) -> None:
    """Records of two subjects to train on and one to validate with."""
    splits = {"pig1": "train", "pig2": "train", "pig3": "val"}
    (work / "cohort").mkdir()
    manifest = write_cohort(work / "cohort", splits)
    write_records(read_manifest(manifest), work / "records", settings(spacing_mm=8.0), seed=0)


def undisturbed(bench: Bench, name: str, *, witness: bool = False) -> float:
    """Trains to the end; the seconds until the first step was told."""
    process = bench.start(name, DEVICES[0], witness=witness)
    process.await_true(lambda: process.step() > 0)
    first_s = process.age_s()
    finished(process)
    return first_s


def finished(process: Process) -> None:
    if process.end() != 0 or "finished" not in process.lines[-1]:
        raise SystemExit("error: a run left alone failed:\n" + "\n".join(process.lines[-20:]))


def disturbed(
    bench: Bench,
    name: str,
    faults: int,
    rng: np.random.Generator,
    start_s: float,
    devices: Sequence[int],
    *,
    witness: bool = False,
) -> list[Fault]:
    """Strikes process after process, then lets the last one finish."""
    struck: list[Fault] = []
    kinds = [KINDS[k % len(KINDS)] for k in range(faults)]
    moments = [MOMENTS[k % len(MOMENTS)] for k in range(faults)]
    for kind, moment in zip(rng.permutation(kinds), rng.permutation(moments), strict=True):
        process = bench.start(name, devices[len(struck) % len(devices)], witness=witness)
        fault = Fault(str(kind), str(moment))
        when = moment_of(
            fault.moment, process, bench.run(name), rng, start_s=start_s, every=CHECKPOINT_EVERY
        )
        if not process.await_true(when):
            process.end()
            raise SystemExit(
                f"error: after {len(struck)} faults a process ended by itself:\n"
                + "\n".join(process.lines[-20:])
            )
        strike(fault, process, rng)
        if "torn" in fault.kind:
            fault.torn = tear_newest(bench.run(name), rng)
        struck.append(fault)
        print(row(len(struck), fault), flush=True)
    finished(bench.start(name, devices[len(struck) % len(devices)], witness=witness))
    return struck


def row(number: int, fault: Fault) -> str:
    mark = "" if fault.answered else "  NOT AS IT SHOULD"
    return (
        f"{number:3}  {fault.kind:18} {fault.moment:10} step {fault.after_step:4}  "
        f"exit {fault.exit_code:4}  {fault.seconds:5.1f} s  {fault.torn}{mark}"
    )


def weights(bench: Bench, name: str) -> Any:
    return read_weights(bench.run(name) / "checkpoints" / str(bench.steps))


def same_bits(one: Any, other: Any) -> bool:
    """Whether two trees of arrays are equal to the last bit."""
    equal = jax.tree.map(lambda a, b: a.dtype == b.dtype and a.tobytes() == b.tobytes(), one, other)
    return all(jax.tree.leaves(equal))


def bit_exact(bench: Bench, faults: int, seed: int) -> dict[str, Any]:
    """One run struck, one not; are they the same?"""
    rng = np.random.default_rng(seed)
    start_s = undisturbed(bench, "undisturbed")
    struck = disturbed(bench, "struck", faults, rng, start_s, DEVICES[:1])
    losses = [bench.losses(name) for name in ("undisturbed", "struck")]
    one, other = (weights(bench, name) for name in ("undisturbed", "struck"))
    return {
        "faults": [asdict(f) | {"answered": f.answered} for f in struck],
        "all_answered": all(f.answered for f in struck),
        "slowest_signal_s": max((f.seconds for f in struck if "SIG" in f.kind), default=None),
        "moved_aside": sorted(p.name for p in bench.run("struck").glob("checkpoints/*.torn*")),
        "kept": whole_steps(bench.run("struck") / "checkpoints"),
        "same_params": same_bits(one["params"], other["params"]),
        "same_ema": same_bits(one["ema"], other["ema"]),
        "same_losses": losses[0] == losses[1],
    }


def changed_devices(bench: Bench, faults: int, seed: int) -> dict[str, Any]:
    """The same with another number of devices at every restart."""
    rng = np.random.default_rng(seed)
    start_s = undisturbed(bench, "one_layout", witness=True)
    struck = disturbed(bench, "layouts", faults, rng, start_s, DEVICES, witness=True)
    one, other = (bench.batches(name) for name in ("one_layout", "layouts"))
    losses = [bench.losses(name) for name in ("one_layout", "layouts")]
    apart = [abs(losses[1][s] / loss - 1) for s, loss in losses[0].items()]
    return {
        "devices": [DEVICES[k % len(DEVICES)] for k in range(faults + 1)],
        "faults": [asdict(f) | {"answered": f.answered} for f in struck],
        "all_answered": all(f.answered for f in struck),
        "same_batches": all(len(one[s] | other[s]) == 1 for s in range(bench.steps)),
        "largest_relative_loss_difference": max(apart),
        "that_of_the_first_20_steps": max(apart[:20]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=25)
    parser.add_argument("--devices", type=int, default=6, help="faults with changing devices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an empty folder to keep; else a temporary one")
    args = parser.parse_args()
    result = {"origin": origin(["jax", "orbax-checkpoint"]), "seed": args.seed}
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        make_records(work)
        sections = {
            "bit_exact": lambda: bit_exact(Bench(work, 5 * args.faults), args.faults, args.seed),
            "changed_devices": lambda: changed_devices(
                Bench(work, 5 * args.devices), args.devices, args.seed + 1
            ),
        }
        for name, make in sections.items():
            print(name, flush=True)
            result[name] = make()
            told = {key: value for key, value in result[name].items() if key != "faults"}
            print(json.dumps(told, indent=2))
            print(f"written to {os.path.relpath(write_result('chaos', result))}", flush=True)


if __name__ == "__main__":
    main()
