"""A run of several processes, one on each host: how they find each other and how they end.

JAX's own runtime is what joins them. `place_of` reads from the environment who a process is;
`joined` starts it, silences all but process 0, and sees to it that none waits for one that failed:
that one leaves at once, and the others are ended by JAX when its heartbeat has been missing for
`HEARTBEAT_TIMEOUT_S`. How they agree to stop is in `edm3d.training.agreement`.
"""

import contextlib
import itertools
import multiprocessing
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax._src.distributed import global_state

from edm3d.errors import InputError

KINDS = ("none", "slurm", "tpu", "env")
HEARTBEAT_TIMEOUT_S = 25  # a process that was killed ends the others after this
END_TIMEOUT_S = 50  # how long one that has finished waits for the others
ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
_COUNTS = {  # variables by which launchers tell how many copies they start, and the mend
    "SLURM_NTASKS": "add --distributed=slurm, or ask SLURM for one task",
    "JAX_NUM_PROCESSES": "add --distributed=env, or unset it",
    "OMPI_COMM_WORLD_SIZE": f"set {', '.join(ENVIRONMENT)} and add --distributed=env",
}
WAIT_S = 3600  # how long processes wait for one that compiles; one that failed ends them sooner
_barriers = itertools.count()  # each needs a name of its own, the same on all
_FIRST_PORT, _PORTS = 61440, 4096  # above what systems hand out, one for each job of a cluster


@dataclass(frozen=True)
class Place:
    """Which of the `count` processes of a job this is, and where process 0 listens.

    `coordinator` is `host:port`, or empty where JAX finds all three itself (TPU pods).
    """

    coordinator: str = ""
    count: int = 0
    index: int = 0


def place_of(kind: str, environment: Mapping[str, str]) -> Place | None:
    """The place that `environment` gives this process; None for a process alone.

    Raises:
        InputError: the environment is incomplete or wrong, or it tells of several processes and
            `kind` is "none": each would train a copy.
    """
    if kind == "none":
        _check_alone(environment)
        return None
    if kind == "tpu":
        return Place()
    names = _SLURM if kind == "slurm" else ENVIRONMENT
    if missing := [name for name in names if not environment.get(name)]:
        started = "by srun" if kind == "slurm" else "with " + ", ".join(ENVIRONMENT)
        raise InputError(
            f"--distributed={kind}, but {', '.join(missing)} is not set; "
            f"start edm3d.train {started}"
        )
    if kind == "slurm":
        return _checked(
            _slurm_coordinator(environment), environment, "SLURM_NTASKS", "SLURM_PROCID"
        )
    return _checked(environment[ENVIRONMENT[0]], environment, *ENVIRONMENT[1:])


def _check_alone(environment: Mapping[str, str]) -> None:
    for name, mend in _COUNTS.items():
        if environment.get(name, "1") != "1":
            raise InputError(
                f"{name} is {environment[name]}, but --distributed is not given, and each process "
                f"would train a copy of its own; {mend}"
            )
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        raise InputError(
            f"TPU_WORKER_HOSTNAMES is {environment['TPU_WORKER_HOSTNAMES']}, but --distributed is "
            f"not given; add --distributed=tpu"
        )


def _checked(coordinator: str, environment: Mapping[str, str], count: str, index: str) -> Place:
    if not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(
            f"{ENVIRONMENT[0]} is {coordinator!r}; give host:port of process 0, such as node1:61440"
        )
    n, i = (_whole(name, environment[name]) for name in (count, index))
    if not 0 <= i < n:
        raise InputError(f"{index} is {i} and {count} is {n}; give an index from 0 to {count} - 1")
    return Place(coordinator, n, i)


def _whole(name: str, value: str) -> int:
    if not value.isdecimal():
        raise InputError(f"{name} is {value!r}; give a whole number")
    return int(value)


def _slurm_coordinator(environment: Mapping[str, str]) -> str:
    """The first of nodes such as `n[07-12,15],x1`, and a port that is the job's own."""
    first = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", environment["SLURM_STEP_NODELIST"])
    assert first is not None  # a match needs one character, and the variable is not empty
    node = first[1] + (first[2] or "")
    return f"{node}:{_FIRST_PORT + _whole('SLURM_JOB_ID', environment['SLURM_JOB_ID']) % _PORTS}"


@contextlib.contextmanager
def joined(
    place: Place | None, *, start_timeout_s: int, errors: contextlib.AbstractContextManager
) -> Iterator[None]:
    """Within it `jax.devices()` are those of all processes, and only process 0 prints.

    What is raised within goes through `errors`, which tells it, and ends the process at once: to
    close things in order would mean to wait for processes that wait for this one.

    Args:
        start_timeout_s: how long the processes wait for each other to start.
    """
    if place is None:
        yield
        return
    with _ends_at_once(), errors:
        _start(place, start_timeout_s)
        with _silent(unless=jax.process_index() == 0):
            yield
        jax.distributed.shutdown()


def wait_for_all(what: str) -> None:
    """Returns when all processes have come here; at once in a process alone.

    No collective of the devices, which would give up on a process that compiles for long.
    """
    if jax.process_count() > 1:
        if not jax.distributed.is_initialized():
            raise InputError(
                f"there are {jax.process_count()} processes, but --distributed is not given; add it"
            )
        # JAX has no public barrier of hosts; Orbax uses this one as well
        client: Any = global_state.client
        client.wait_at_barrier(f"{what} {next(_barriers)}", WAIT_S * 1000)


def _start(place: Place, timeout_s: int) -> None:
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    # One process a host takes all devices that it sees; JAX's own reading of SLURM takes one.
    given = {
        "coordinator_address": place.coordinator,
        "num_processes": place.count,
        "process_id": place.index,
        "cluster_detection_method": "deactivate",
    }
    try:
        jax.distributed.initialize(
            **(given if place.coordinator else {}),
            initialization_timeout=timeout_s,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=END_TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        who = f"process {place.index} of {place.count}" if place.coordinator else "this process"
        raise InputError(
            f"{who} has not met the others within {timeout_s} s ({told[:200]}); look at what they "
            f"print, or give --start_timeout_s more"
        ) from error


@contextlib.contextmanager
def _ends_at_once() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        for child in multiprocessing.active_children():  # readers of records
            child.kill()
        os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def _silent(*, unless: bool) -> Iterator[None]:
    if unless:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
