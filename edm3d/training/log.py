"""What a run tells while it trains: `metrics.jsonl`, TensorBoard, one line on the screen."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from edm3d.training.state import sigma_bin_names


class RunLog:
    """Appends measurements to `metrics.jsonl` and to TensorBoard event files in a run folder."""

    def __init__(self, run: Path, *, first_step: int):
        self._path = run / "metrics.jsonl"
        _keep_until(self._path, first_step)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one row of named numbers, taken after `step` updates."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()


def _keep_until(path: Path, step: int) -> None:
    """Drops rows after `step`, which a resumed run writes again, and a last row torn by a kill."""
    if not path.exists():
        return
    rows = [line for line in path.read_text().splitlines(True) if line.endswith("}\n")]
    draft = path.with_name(path.name + ".partial")
    draft.write_text("".join(row for row in rows if json.loads(row)["step"] <= step))
    os.replace(draft, path)


def summarise(measured: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means over some steps of what `train_step` measured; the loss also by noise level."""
    sums = np.sum([m["sigma_loss_sum"] for m in measured], axis=0)
    counts = np.sum([m["sigma_count"] for m in measured], axis=0)
    bins = zip(sigma_bin_names(), sums, counts, strict=True)
    return {
        "loss": float(np.mean([m["loss"] for m in measured])),
        **{f"loss_sigma/{name}": float(s / n) for name, s, n in bins if n},
        "gradient_norm": float(np.mean([m["gradient_norm"] for m in measured])),
        "skipped_steps": int(measured[-1]["skipped"]),
    }


def progress_line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """One line for a terminal or a log file."""
    parts = [f"step {step}/{steps}", f"loss {values['loss']:.4f}"]
    named = [
        (n, values[f"loss_sigma/{n}"]) for n in sigma_bin_names() if f"loss_sigma/{n}" in values
    ]
    parts.append("by sigma " + " ".join(f"{n}:{v:.3f}" for n, v in named))
    if "validation_loss" in values:
        parts.append(f"validation {values['validation_loss']:.4f}")
    parts.append(f"{values['patches_per_s']:.2f} patches/s")
    if values["skipped_steps"]:
        parts.append(f"{values['skipped_steps']} steps skipped")
    parts.append(f"ETA {duration((steps - step) / max(values['steps_per_s'], 1e-9))}")
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """`d:hh:mm:ss` without empty days."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d {h:02}:{m:02}:{s:02}" if days else f"{h}:{m:02}:{s:02}"


class Stopwatch:
    """Seconds and steps since it was last read."""

    def __init__(self, step: int):
        self._time, self._step = time.perf_counter(), step

    def lap(self, step: int) -> tuple[int, float]:
        """Steps and seconds since the last lap."""
        now = time.perf_counter()
        lap = step - self._step, now - self._time
        self._time, self._step = now, step
        return lap

    def pause(self, seconds: float) -> None:
        """Leaves `seconds` out of the lap under way."""
        self._time += seconds
