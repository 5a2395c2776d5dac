"""What a run tells while it trains: `metrics.jsonl`, TensorBoard, one line on the screen."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np

from edm3d.training.board import Board
from edm3d.training.noise_levels import by_sigma, sigma_bin_names

WORTH_TELLING = 0.05  # the share of time without data from which the progress line names it


class RunLog:
    """Appends measurements to `metrics.jsonl` and to TensorBoard event files in a run folder."""

    def __init__(self, run: Path, *, first_step: int):
        self._path = run / "metrics.jsonl"
        _keep_until(self._path, first_step)
        self._board = Board(run / "tensorboard", purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds one row of named numbers, taken after `step` updates; None where there is none."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, step)
        self._board.flush()

    def picture(self, step: int, name: str, rgb: np.ndarray) -> None:
        """Adds uint8 `[height, width, 3]`, as `RUN/NAME/step-STEP.png` and to TensorBoard."""
        path = self._path.parent / name / f"step-{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(path.name + ".partial")
        matplotlib.image.imsave(draft, rgb, format="png")
        os.replace(draft, path)
        self._board.add_image(name, rgb, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class SilentLog:
    """In place of a `RunLog` in processes that leave it to another."""

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        del step, values

    def picture(self, step: int, name: str, rgb: np.ndarray) -> None:
        del step, name, rgb

    def close(self) -> None: ...


def _keep_until(path: Path, step: int) -> None:
    """Drops rows after `step`, which a resumed run writes again, and a last row torn by a kill."""
    if not path.exists():
        return
    rows = [line for line in path.read_text().splitlines(True) if line.endswith("}\n")]
    draft = path.with_name(path.name + ".partial")
    draft.write_text("".join(row for row in rows if json.loads(row)["step"] <= step))
    os.replace(draft, path)


def summarise(measured: list[dict[str, np.ndarray]]) -> dict[str, float | None]:
    """Means over the finite of some steps' measurements; the loss also by noise level.

    A mean is None where no step was finite; skipped steps are counted beside it.
    """
    finite = [m for m in measured if np.isfinite(m["loss"]) and np.isfinite(m["update_norm"])]
    binned = [by_sigma(m["losses"], m["sigma"]) for m in finite]
    bins = zip(sigma_bin_names(), *np.sum(binned, axis=0), strict=True) if finite else ()

    def mean(name: str) -> float | None:
        return float(np.mean([m[name] for m in finite])) if finite else None

    return {
        "loss": mean("loss"),
        **{f"loss_sigma/{name}": float(s / n) for name, s, n in bins if n},
        **{name: mean(name) for name in ("gradient_norm", "update_norm", "parameter_norm")},
        "skipped_steps": int(measured[-1]["skipped"]),
    }


def validation_row(losses: np.ndarray | None, sigma: np.ndarray) -> dict[str, float | None]:
    """Their mean and their means by noise level; None where there are none or not all finite.

    `losses` and `sigma` are `[n]`.
    """
    if losses is None or not np.isfinite(losses).all():
        return {"validation_loss": None}
    bins = zip(sigma_bin_names(), *by_sigma(losses, sigma), strict=True)
    by_level = {f"validation_loss_sigma/{name}": float(s / n) for name, s, n in bins if n}
    return {"validation_loss": float(np.mean(losses)), **by_level}


def progress_line(step: int, steps: int, values: Mapping[str, Any]) -> str:
    """One line for a terminal or a log file."""
    parts = [f"step {step}/{steps}"]
    parts.append("no finite loss" if values["loss"] is None else f"loss {values['loss']:.4f}")
    named = [
        (n, values[f"loss_sigma/{n}"]) for n in sigma_bin_names() if f"loss_sigma/{n}" in values
    ]
    parts.append("by sigma " + " ".join(f"{n}:{v:.3f}" for n, v in named))
    if values.get("validation_loss") is not None:
        parts.append(f"validation {values['validation_loss']:.4f}")
    parts.append(f"{values['patches_per_s']:.2f} patches/s")
    if (used := values.get("model_flop_utilisation")) is not None:
        parts.append(f"MFU {used:.0%}")
    if (waited := values.get("input_wait_share", 0.0)) >= WORTH_TELLING:
        parts.append(f"{waited:.0%} waiting for data")
    if values.get("damaged_records"):
        parts.append(f"{values['damaged_records']} damaged records")
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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent within out of the lap under way."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._time += time.perf_counter() - start
