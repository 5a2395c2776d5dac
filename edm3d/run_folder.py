"""The folder of a run: what it was trained with, and from which checkpoint it goes on.

Used by `edm3d.train`. Of several processes one writes; the others see to it that they share.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from edm3d import experiment
from edm3d.data.cases import read_dataset_info
from edm3d.errors import InputError
from edm3d.training import distributed
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.disk import whole_steps
from edm3d.training.restore import newest_whole
from edm3d.training.state import TrainState

SHARED_FOLDER_LAG_S = 20  # after which a file written on one host is seen on all
# What a run cannot change and go on; its batch too.
SAME = (
    *("seed", "patch", "patch_sizes", "conditioning", "condition_dropout"),
    *("model", "edm", "ema_lengths", "data"),
)


def prepare(
    run: Path, config: Mapping[str, Any], records: Path, abstract: TrainState
) -> tuple[Checkpoints, int | None]:
    """The checkpoints, and the step of the newest that can be read, None in a fresh folder.

    Writes config.json and dataset.json. Checkpoints that are torn are moved aside.

    Raises:
        InputError: another config or data set trained the folder, or no checkpoint is whole.
    """
    content, folder = experiment.json_of(config), run / "checkpoints"
    writes = jax.process_index() == 0
    if writes and whole_steps(folder):
        _check_same(run, content, records)
    newest = newest_whole(folder, abstract)
    if writes:
        run.mkdir(parents=True, exist_ok=True)
        experiment.write_json(run / "dataset.json", experiment.read_json(records / "dataset.json"))
        experiment.write_json(run / "config.json", content)
    distributed.wait_for_all("run folder is written")
    if not writes:
        _check_shared(run, content)
    section = content["train"]
    kept = Checkpoints(folder, keep=section["keep_checkpoints"], every=section["keep_every"])
    return kept, newest


def _check_same(run: Path, content: dict, records: Path) -> None:
    old = experiment.read_run_config(run)
    for name in (*SAME, "batch"):
        before, now = (c["train"] if name == "batch" else c for c in (old, content))
        if before.get(name) != now[name]:
            raise InputError(
                f"run folder {run} was trained with {name} {before.get(name)}, now it is "
                f"{now[name]}; choose another config.run"
            )
    if read_dataset_info(run) != read_dataset_info(records):
        raise InputError(
            f"run folder {run} was trained on other records than {records}; choose another "
            f"config.run, or the records it was trained on"
        )


def _check_shared(run: Path, content: dict) -> None:
    """Raises `InputError` unless process 0 wrote this config into this folder."""
    path, until = run / "config.json", time.monotonic() + SHARED_FOLDER_LAG_S
    while not (path.is_file() and experiment.read_json(path) == content):
        if time.monotonic() > until:
            raise InputError(
                f"{path} does not hold the config of process {jax.process_index()}; put config.run "
                f"on a file system that all hosts share, and start all with the same flags"
            )
        time.sleep(0.2)
