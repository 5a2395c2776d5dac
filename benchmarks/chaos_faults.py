"""Faults for `benchmarks/chaos.py`: what is done to a training process, when, and what must follow.

Each is drawn from a random generator, so that a seed names the whole sequence.
"""

import os
import queue
import re
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

POLL_S = 0.002
LIMIT_S = 300  # for what should take seconds
KINDS = ("kill", "torn", "SIGTERM", "kill", "full disk", "SIGINT", "torn and full disk")
MOMENTS = ("start-up", "step", "save", "validation", "step")
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


@dataclass
class Fault:
    """What befell one process and how it ended."""

    kind: str
    moment: str
    after_step: int = 0  # the last that the process told
    exit_code: int | None = None
    seconds: float = 0.0  # from the fault to the end of the process
    line: str = ""  # its error, or else its last
    noise: int = 0  # lines after its error
    torn: str = ""  # the file torn afterwards

    @property
    def answered(self) -> bool:
        """Whether the process ended as this fault asks."""
        if self.kind in SIGNALS:  # Python's own answer before the command has begun
            return self.exit_code == 0 or (
                self.moment == "start-up" and self.exit_code == -SIGNALS[self.kind]
            )
        if "full disk" in self.kind:
            return self.exit_code == 2 and self.line.startswith("error: ")
        return self.exit_code == -signal.SIGKILL


@dataclass
class Process:
    """A training process whose output is read as it comes."""

    command: Sequence[str]
    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.started = time.perf_counter()
        self.popen = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._news: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as lines:
            for line in lines:
                self._news.put(line.rstrip("\n"))

    def age_s(self) -> float:
        return time.perf_counter() - self.started

    def step(self) -> int:
        """The last step told."""
        while not self._news.empty():
            self.lines.append(self._news.get())
        told = (re.match(r"step (\d+)/", line) for line in reversed(self.lines))
        return next((int(match[1]) for match in told if match), 0)

    def await_true(self, moment: Callable[[], bool]) -> bool:
        """Whether the moment came before the process ended."""
        while self.popen.poll() is None:
            if moment():
                return True
            time.sleep(POLL_S)
        return False

    def end(self) -> int:
        """The exit code; everything it said is then in `lines`."""
        code = self.popen.wait(LIMIT_S)
        self._reader.join()
        self.step()
        return code


def moment_of(
    name: str, process: Process, run: Path, rng: np.random.Generator, *, start_s: float, every: int
) -> Callable[[], bool]:
    """Says when a process has come to a random moment of the named kind."""
    begin, pause, ahead = rng.uniform(0, 1.1 * start_s), rng.uniform(0, 0.08), rng.integers(1, 6)
    first: list[int] = []

    def steps_made() -> int:
        step = process.step()
        if step and not first:
            first.append(step)
        return step - first[0] if first else -1

    def after_pause() -> bool:
        time.sleep(pause)
        return True

    if name == "start-up":
        return lambda: process.age_s() > begin
    if name == "step":
        return lambda: steps_made() >= ahead and after_pause()
    if name == "save":
        saving = (run / "checkpoints").glob
        return lambda: steps_made() >= 0 and any(saving("*tmp*")) and after_pause()
    # the line of a step comes after its validation, so that of the step before is waited for
    return lambda: steps_made() >= 1 and process.step() % every == every - 1 and after_pause()


def strike(fault: Fault, process: Process, rng: np.random.Generator) -> None:
    """Does it, and waits for the end of the process."""
    fault.after_step = process.step()
    start = time.perf_counter()
    if "full disk" in fault.kind:
        # as of a disk that has room for small files only
        full = (int(rng.integers(100, 20_000)), resource.RLIM_INFINITY)
        resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, full)
    else:
        process.popen.send_signal(SIGNALS.get(fault.kind, signal.SIGKILL))
    fault.exit_code = process.end()
    fault.seconds = time.perf_counter() - start
    fault.after_step = process.step()
    errors = [k for k, line in enumerate(process.lines) if line.startswith("error: ")]
    chosen = errors[0] if errors else len(process.lines) - 1
    fault.line = process.lines[chosen] if process.lines else ""
    fault.noise = len(process.lines) - 1 - chosen
    if fault.noise > 0 or not fault.answered:
        print("\n".join(process.lines[chosen : chosen + 30]), flush=True)


def tear_newest(run: Path, rng: np.random.Generator) -> str:
    """Cuts, zeroes or removes a file that the newest checkpoint is read from; names it.

    Only where an older one is left, as the newest alone cannot be done without.
    """
    checkpoints = sorted(
        int(path.name) for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdecimal()
    )
    if len(checkpoints) < 2:
        return ""
    folder = run / "checkpoints" / str(checkpoints[-1])
    read = ("_METADATA", "manifest.ocdbt", "metrics/metrics")
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and str(path.relative_to(folder)).endswith(read)
        and "ocdbt.process" not in str(path)
    ]
    data = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file = [*files, data, data, data][rng.integers(len(files) + 3)]
    content, way = file.read_bytes(), ("cut", "zeroed", "removed")[rng.integers(3)]
    if way == "removed":
        file.unlink()
    else:
        half = content[: len(content) // 2]
        file.write_bytes(half + bytes(len(content) - len(half)) * (way == "zeroed"))
    return f"{file.relative_to(run / 'checkpoints')} {way}"
