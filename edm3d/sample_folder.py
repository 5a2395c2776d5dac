"""The folder that sampling writes: one folder a case, complete when its `case.json` is there."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

import edm3d
from edm3d import experiment
from edm3d.data.cases import Case
from edm3d.data.protocols import protocols_of
from edm3d.data.volumes import write_nifti
from edm3d.errors import InputError
from edm3d.generation import Solver
from edm3d.told import Told


def case_record(
    case: Case,
    *,
    solver: Solver,
    members: int,
    seed: int,
    checkpoint_step: int,
    average: str,
    weights_sha256: str,
    told: Told,
) -> dict[str, Any]:
    """The content of case.json: whatever it takes to draw the same again."""
    inputs = {
        name: hashlib.sha256(np.ascontiguousarray(getattr(case, name)).tobytes()).hexdigest()
        for name in ("prior_hu", "xray_pa", "xray_lat")
    }
    record = {
        "case_id": case.case_id,
        "subject": case.subject,
        "prior_scan": case.prior_scan,
        "target_scan": case.target_scan,
        "protocols": protocols_of(case),
        "prior_ventilation": asdict(case.prior_ventilation),
        "target_ventilation": asdict(case.target_ventilation),
        "input_sha256": inputs,
        **({"film_fits": case.film_fits} if case.film_fits else {}),
        "members": members,
        "seed": seed,
        "checkpoint_step": checkpoint_step,
        "ema": average,
        "weights_sha256": weights_sha256,
        "nfe": solver.nfe,
        "solver": asdict(solver),
        **told.record(),
        "edm3d_version": edm3d.__version__,
    }
    return experiment.json_of(record)


def weights_checksum(params: Any) -> str:
    """SHA-256 over the names and values of a network's weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def is_drawn(folder: Path, record: dict[str, Any]) -> bool:
    """Whether `folder` holds the case complete.

    Raises:
        InputError: it holds the case drawn with other settings.
    """
    path = folder / "case.json"
    if not path.exists():
        return False
    old = experiment.read_json(path)
    for name, value in record.items():
        if old.get(name) != value:
            raise InputError(
                f"{path} was drawn with {name} {old.get(name)}, now it is {value}; "
                f"choose another --out, or remove that folder"
            )
    return True


class CaseWriter:
    """Writes one case's members as they come, then their mean and spread and, last, `case.json`."""

    def __init__(self, folder: Path, case: Case, members: int):
        self._folder, self._case, self._members = folder, case, members
        self._mean = np.zeros(case.volume_shape_zyx)
        self._squares = np.zeros(case.volume_shape_zyx)  # of deviations from the mean
        self._count = 0
        self._clear()

    def add(self, hu: np.ndarray) -> None:
        """Takes the next member, int16 HU `[z, y, x]` (running moments: Welford 1962)."""
        if self._members > 1:
            self._write(f"members/{self._count:03}.nii.gz", hu)
        self._count += 1
        deviation = hu - self._mean
        self._mean += deviation / self._count
        self._squares += deviation * (hu - self._mean)

    def finish(self, record: dict[str, Any]) -> None:
        """Writes what a reader looks for once all members are there."""
        if self._count != self._members:
            raise ValueError(f"{self._count} of {self._members} members were added")
        self._write("generated.nii.gz", np.round(self._mean).astype(np.int16))
        if self._members > 1:
            std = np.sqrt(self._squares / (self._members - 1))
            self._write("std.nii.gz", std.astype(np.float32))
        experiment.write_json(self._folder / "case.json", record)

    def _clear(self) -> None:
        """Removes what an interrupted drawing of this case left, and nothing else."""
        shutil.rmtree(self._folder / "members", ignore_errors=True)
        for name in ("generated.nii.gz", "std.nii.gz"):
            (self._folder / name).unlink(missing_ok=True)

    def _write(self, name: str, values: np.ndarray) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, values, self._case.grid)
