"""Processes find each other, share out rows, agree to stop, and none waits for one that failed."""

import os
import signal
import subprocess
import sys

import pytest

from edm3d.errors import InputError
from edm3d.training.distributed import ENVIRONMENT, Place, place_of
from tests.configurations import ROOT

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "gpu[007-012,15],x1",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
}
EXPLICIT = dict(zip(ENVIRONMENT, ("node1:7000", "2", "1"), strict=True))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[007-012,15],x1", "gpu007"), ("n1,n2", "n1"), ("n[3,5]", "n3"), ("solo-2", "solo-2")],
)
def test_slurm_tells_the_place_and_the_first_node_leads(nodes, first):
    told = {**SLURM, "SLURM_STEP_NODELIST": nodes}
    assert place_of("slurm", told) == Place(f"{first}:61441", count=8, index=3)


def test_the_environment_may_name_the_place():
    assert place_of("env", EXPLICIT) == Place("node1:7000", count=2, index=1)
    assert place_of("none", {}) is None and place_of("none", {"SLURM_NTASKS": "1"}) is None


@pytest.mark.parametrize("kind", ["slurm", "env"])
def test_a_half_set_environment_is_refused_with_what_is_missing(kind):
    told = SLURM if kind == "slurm" else EXPLICIT
    for name in told:
        with pytest.raises(InputError, match=f"--distributed={kind}, but {name} is not set"):
            place_of(kind, {n: value for n, value in told.items() if n != name})


def test_wrong_numbers_and_addresses_are_refused():
    count, index = ENVIRONMENT[1:]
    with pytest.raises(InputError, match="JAX_PROCESS_ID is 2 and JAX_NUM_PROCESSES is 2"):
        place_of("env", {**EXPLICIT, index: "2"})
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES is 'two'; give a whole number"):
        place_of("env", {**EXPLICIT, count: "two"})
    with pytest.raises(InputError, match="is 'node1'; give host:port"):
        place_of("env", {**EXPLICIT, ENVIRONMENT[0]: "node1"})


@pytest.mark.parametrize(
    ("told", "mend"),
    [
        ({"SLURM_NTASKS": "8"}, "SLURM_NTASKS is 8.*--distributed=slurm"),
        (EXPLICIT, "JAX_NUM_PROCESSES is 2.*--distributed=env"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE is 4.*--distributed=env"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES is a,b.*--distributed=tpu"),
    ],
)
def test_several_copies_without_the_switch_are_refused(told, mend):
    with pytest.raises(InputError, match=mend):
        place_of("none", told)


def pair(case: str, port: int) -> list[subprocess.Popen]:
    told = {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"}
    places = [zip(ENVIRONMENT, (f"localhost:{port}", "2", str(i)), strict=True) for i in range(2)]
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/training/one_of_two.py"), case],
            env=os.environ | told | dict(place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]


def test_rows_and_stops_are_shared_and_a_failure_ends_both():
    port = 20_000 + os.getpid() % 10_000
    jobs = {case: pair(case, port + k) for k, case in enumerate(("well", "input", "kill"))}
    told = {case: [process.communicate(timeout=300) for process in jobs[case]] for case in jobs}
    codes = {case: [process.returncode for process in jobs[case]] for case in jobs}

    assert codes["well"] == [0, 0], told["well"]
    (out0, rows0), (out1, rows1) = told["well"]
    assert "told by 0" in out0 and "told by" not in out1
    shares = [[line for line in rows.splitlines() if line[0] == "("] for rows in (rows0, rows1)]
    assert shares[0] == [
        "(4, 1) [0, 1]", "(4, 1) [0, 2]", "(2, 2) [0, 1]", "(2, 2) [0, 1, 2, 3]",
        "(1, 4) [0, 1, 2, 3]",
    ]  # fmt: skip
    assert shares[1] == [
        "(4, 1) [2, 3]", "(4, 1) [1, 3]", "(2, 2) [2, 3]", "(2, 2) [0, 1, 2, 3]",
        "(1, 4) [0, 1, 2, 3]",
    ]  # fmt: skip
    assert codes["input"][1] == 2 and codes["input"][0] != 0
    assert told["input"][1][1].splitlines()[-1] == "error: record 7 is damaged"
    assert codes["kill"][0] == -signal.SIGKILL and codes["kill"][1] != 0
