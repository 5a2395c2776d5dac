"""Two processes of four devices each, started by the SLURM script, train what one of eight does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from edm3d import train as command
from tests.configurations import ROOT, tiny_config
from tests.test_train import _final_state

STEPS, SAVED_EVERY = 20, 5
CONFIG = """
import os, types
from pathlib import Path
from jax._src import compiler
from edm3d.data import pipeline
from tests.configurations import tiny_config

read, logs = pipeline.example_at, Path(os.environ["SRUN_LOGS"])

def noted(cases, info, g, **options):
    with (logs / f"examples{{os.environ['SLURM_PROCID']}}").open("a") as file:
        file.write(f"{{g}}\\n")
    return read(cases, info, g, **options)

def kept(*compiled, write=compiler._cache_write):
    # JAX keeps what process 0 compiled; on CPUs the key of process 1 is another
    state = compiler.distributed.global_state
    index, state.process_id = state.process_id, 0
    try:
        write(*compiled)
    finally:
        state.process_id = index

def get_config():
    compiler._cache_write = kept
    pipeline.example_at = noted
    config = tiny_config(types.SimpleNamespace(**{widths}), Path({records!r}), Path("run"))
    config.train.steps, config.train.checkpoint_every = {steps}, {saved_every}
    config.train.validate_every = 10
    return config
"""


def metrics(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


@dataclass
class Job:
    """A job of two tasks under way; their logs, process ids and codes lie in `logs`."""

    process: subprocess.Popen
    logs: Path
    run: Path

    def wait_for_step(self, step: int) -> None:
        while not any(row["step"] >= step for row in metrics(self.run)):
            assert self.process.poll() is None, self.told()
            time.sleep(0.005)

    def task(self, index: int) -> int:
        return int((self.logs / f"task{index}.pid").read_text())

    def ended(self) -> list[int]:
        """The tasks' codes."""
        self.process.wait(timeout=600)
        return [int(code) for code in (self.logs / "codes").read_text().split()]

    def told(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.logs.glob("task*.log")))

    def examples(self, index: int) -> set[int]:
        return {int(g) for g in (self.logs / f"examples{index}").read_text().split()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, tiny_records, widths):
    """A folder to submit from, where what the script needs counts as installed."""
    home = tmp_path_factory.mktemp("cluster")
    (home / "bin").mkdir()
    shutil.copy(ROOT / "launch/slurm.sbatch", home / "slurm_script")
    (home / "launch").mkdir()
    (home / "launch/environment.sh").write_text(f'export PATH="{home}/bin:$PATH"\n')
    for name, words in {"python": "", "srun": ROOT / "tests/srun.py"}.items():
        path = home / "bin" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        path.chmod(0o755)
    given = {"records": str(tiny_records), "steps": STEPS, "saved_every": SAVED_EVERY}
    (home / "config.py").write_text(CONFIG.format(widths=vars(widths), **given))
    return home


def submit(home: Path, run: str, job: int, tasks: int = 2) -> Job:
    logs = home / f"logs{job}"
    logs.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_SUBMIT_DIR": str(home), "SLURM_NTASKS": str(tasks)}
    slurm |= {"SLURM_STEP_NODELIST": "localhost", "CONFIG": "config.py", "SRUN_LOGS": str(logs)}
    process = subprocess.Popen(
        ["bash", str(home / "slurm_script"), f"--config.run={run}"],
        env=plain | slurm | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "4"},
        cwd="/",
    )
    return Job(process, logs, home / run)


@pytest.fixture(scope="module")
def undisturbed(cluster) -> Job:
    job = submit(cluster, "undisturbed", os.getpid() * 4)
    assert job.ended() == [0, 0], job.told()
    return job


def config_of(widths, records: Path, run: Path):
    config = tiny_config(widths, records, run)
    config.train.steps, config.train.checkpoint_every = STEPS, SAVED_EVERY
    config.train.validate_every = 10
    return config


@pytest.fixture(scope="module")
def final(widths, tiny_records):
    """`(run) -> state` after all steps."""
    return lambda run: _final_state(config_of(widths, tiny_records, run), STEPS)


def losses(run: Path) -> np.ndarray:
    """Training and validation losses of each step, `[2, STEPS]`."""
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return np.array([[r["loss"] for r in rows], [r.get("validation_loss", 0) for r in rows]])


def assert_rounded_equal(one: Path, other: Path, final) -> None:
    """Float32 sums over 8 devices in another order: 4e-7 of the loss and 3e-6 of a weight were
    seen after 20 updates; a wrong example or draw moves the loss by more than 1e-2."""
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-5)
    close = partial(np.testing.assert_allclose, rtol=0, atol=5e-5)
    jax.tree.map(close, final(one), final(other))


@pytest.fixture(scope="module")
def alone(tiny_records, widths, tmp_path_factory) -> Path:
    """A run of this process on its eight devices."""
    run = tmp_path_factory.mktemp("alone") / "run"
    command.train(config_of(widths, tiny_records, run))
    return run


def test_two_processes_train_what_one_does(undisturbed, alone, final):
    assert_rounded_equal(undisturbed.run, alone, final)


def test_each_process_reads_its_half_of_every_batch(undisturbed):
    batch, half = 8, 4
    for index in range(2):
        read = undisturbed.examples(index)
        assert {g // half % 2 for g in read} == {index}
        assert {g for g in read if g < STEPS * batch} == {
            step * batch + index * half + row for step in range(STEPS) for row in range(half)
        }


def test_process_0_alone_tells(undisturbed):
    assert "finished after 20 updates" in (undisturbed.logs / "task0.log").read_text()
    assert "step 1/" not in (undisturbed.logs / "task1.log").read_text()


@pytest.fixture(scope="module")
def stopped(cluster) -> Job:
    """A job of which both processes got a SIGTERM in the middle."""
    job = submit(cluster, "disturbed", os.getpid() * 4 + 1)
    job.wait_for_step(6)
    job.process.send_signal(signal.SIGTERM)
    assert job.ended() == [0, 0], job.told()
    return job


def test_a_stopped_job_ends_well_and_goes_on_in_one_process(
    stopped, alone, final, tiny_records, widths, tmp_path
):
    saved = max(int(path.name) for path in (stopped.run / "checkpoints").iterdir())
    assert 6 <= saved < STEPS and f"after {saved} updates" in stopped.told()
    run = shutil.copytree(stopped.run, tmp_path / "run")
    command.train(config_of(widths, tiny_records, run))
    assert_rounded_equal(run, alone, final)


def test_a_killed_process_ends_the_other_and_the_job_goes_on_bit_for_bit(
    stopped, undisturbed, cluster, final
):
    job = submit(cluster, "disturbed", os.getpid() * 4 + 2)
    job.wait_for_step(max(row["step"] for row in metrics(job.run)) + 4)  # it had a save since
    os.kill(job.task(1), signal.SIGKILL)
    killed = time.monotonic()
    codes = job.ended()
    assert codes[1] == -signal.SIGKILL and codes[0] != 0 and time.monotonic() - killed < 60
    job = submit(cluster, "disturbed", os.getpid() * 4 + 3)
    assert job.ended() == [0, 0], job.told()
    assert "resuming" in job.told()
    np.testing.assert_array_equal(losses(job.run), losses(undisturbed.run))
    jax.tree.map(np.testing.assert_array_equal, final(job.run), final(undisturbed.run))
