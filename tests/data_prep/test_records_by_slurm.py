"""The SLURM array script, run as SLURM runs it: a copy elsewhere, told by its variables alone."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.configurations import ROOT
from tests.data.phantoms import write_cohort
from tests.data_prep.test_build_records import CONFIG, command

PARTS = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Path:
    """A folder to submit from, with an environment that counts as installed; and a spool."""
    home = tmp_path_factory.mktemp("cluster")
    submit, spool = home / "submit", home / "spool"
    (submit / "launch").mkdir(parents=True)
    spool.mkdir()
    shutil.copy(ROOT / "launch/build_records.sbatch", spool / "slurm_script")
    for name in ("pyproject.toml", "launch/constraints.txt", "launch/environment.sh"):
        shutil.copy(ROOT / name, submit / name)
    for name in ("data_prep", "edm3d"):
        (submit / name).symlink_to(ROOT / name)
    pins = b"".join((submit / n).read_bytes() for n in ("pyproject.toml", "launch/constraints.txt"))
    (submit / ".venv/bin").mkdir(parents=True)
    (submit / ".venv" / f"installed-{hashlib.sha256(pins).hexdigest()[:16]}").touch()
    python = submit / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (submit / "config.py").write_text(CONFIG)
    write_cohort(submit, {name: "" for name in "pqrs"})
    done = command(submit / "scans.csv", home / "undisturbed")
    assert done.returncode == 0, done.stderr
    return home


def job(home: Path, out: str, task: int | None, without: str = "") -> subprocess.Popen:
    """One job: a task of the array, or with None the one that merges; `without` a variable."""
    slurm = {"SLURM_SUBMIT_DIR": str(home / "submit"), "SLURM_CPUS_PER_TASK": "1"}
    if task is not None:
        slurm |= {"SLURM_ARRAY_JOB_ID": "76", "SLURM_ARRAY_TASK_ID": str(task), "PARTS": f"{PARTS}"}
        slurm |= {"SLURM_ARRAY_TASK_COUNT": str(PARTS), "SLURM_ARRAY_TASK_MIN": "1"}
    given = {"MANIFEST": "scans.csv", "OUT": out, "CONFIG": "config.py", **slurm}
    given |= {"PYTHONPATH": str(ROOT), "PYTHON": "/bin/false"}  # nothing may be installed here
    given.pop(without, None)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.Popen(
        ["bash", str(home / "spool/slurm_script")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env=plain | given,
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    told, fault = process.communicate(timeout=120)
    return process.returncode, told + fault


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_array_of_jobs_and_a_merge_give_the_records_of_one_command(cluster):
    array = [job(cluster, "out", task) for task in range(1, PARTS + 1)]  # side by side
    for task, (code, told) in enumerate(map(ended, array), start=1):
        assert code == 0, told
        assert f"part {task}/{PARTS}: " in told and "installing" not in told
    code, told = ended(job(cluster, "out", None))
    assert code == 0 and "train: 2 subjects, 12 pairs" in told, told
    assert contents(cluster / "submit/out") == contents(cluster / "undisturbed")


def test_a_merge_without_a_job_of_the_array_fails_until_it_is_submitted_again(cluster):
    for task in (1, 3):
        assert ended(job(cluster, "torn", task))[0] == 0
    code, told = ended(job(cluster, "torn", None))
    assert code == 2 and "1 of 4 groups are not built" in told
    assert ended(job(cluster, "torn", 2))[0] == 0
    code, told = ended(job(cluster, "torn", None))
    assert code == 0, told
    assert contents(cluster / "submit/torn") == contents(cluster / "undisturbed")


@pytest.mark.parametrize(("name", "task"), [("PARTS", 1), ("MANIFEST", None), ("OUT", 2)])
def test_a_job_without_a_variable_ends_with_its_name(cluster, name, task):
    code, told = ended(job(cluster, "none", task, without=name))
    assert code != 0 and f"{name}: unbound variable" in told
    assert not (cluster / "submit/none").exists()
