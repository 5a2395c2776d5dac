"""One file of records being written: the bytes, and the sums over what went into it.

Read next: `edm3d.data.shards`, which fills the files of one group of scans.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edm3d.data.cases import UNIT_HU, Case, encode_case
from edm3d.data.film_match import LOW_CORRELATION
from edm3d.data.grid import Corner, block_corners, crop
from edm3d.data.volumes import AIR_HU
from edm3d.errors import InputError

# Random access needs one record a group. zstd:1 is chosen for its size, not for speed: records take
# 43 % of the bytes, and an example 4 to 8 ms more of one core (benchmarks/pipeline.py).
WRITER_OPTIONS = "group_size:1,zstd:1"


@dataclass(frozen=True)
class ShardSummary:
    """What a shard holds; residual sums are over unit-CT voxels, for training shards."""

    name: str
    split: str
    subject: str
    cases: int
    records: int
    size_bytes: int
    sha256: str
    residual_sum: float
    residual_square_sum: float
    voxels: int
    least_coverage: float
    largest_volume_zyx: tuple[int, int, int]
    without_truth: int = 0  # cases whose target has films but no CT
    films: int = 0
    poor_films: int = 0  # that correlate less than LOW_CORRELATION with the prior's projection
    worst_film: dict[str, Any] | None = None  # case_id, view, and the fields of its FilmFit

    @staticmethod
    def from_plain(fields: dict[str, Any]) -> "ShardSummary":
        """A summary from its JSON values."""
        z, y, x = fields["largest_volume_zyx"]
        return ShardSummary(**{**fields, "largest_volume_zyx": (z, y, x)})


class DiskFault(InputError):
    """The disk is full or refuses a file: no group can be finished, so there is no going on."""


def block_of(case: Case, start: Corner, block: int) -> Case:
    """The block of a whole case that begins at `start`, without lung masks."""
    shape = [min(n, block) for n in case.volume_shape_zyx]
    assert case.target_hu is not None
    return dataclasses.replace(
        case,
        prior_hu=crop(case.prior_hu, start, shape, fill=AIR_HU),
        target_hu=crop(case.target_hu, start, shape, fill=AIR_HU),
        block_start_zyx=start,
        prior_lung_mask=None,
        target_lung_mask=None,
    )


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turns the operating system's word on a file being written into `DiskFault`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord tells of a full disk by RuntimeError
        fault = str(error).splitlines()[0]
        raise DiskFault(
            f"{path} cannot be written ({fault}); free space or change --out"
        ) from error


def _sync(path: Path) -> None:
    """Returns when the file's bytes are on the disk, so that no loss of power tears it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shard:
    """A shard being written, and the sums over what went into it."""

    def __init__(self, path: Path, split: str, *, block: int, window_hu: tuple[float, float]):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.path, self.split = path, split
        self.block, self.window_hu = block, window_hu
        self.writer = ArrayRecordWriter(str(self.path), WRITER_OPTIONS)
        self.subject, self.cases, self.records = "", 0, 0
        self.sums = np.zeros(2)
        self.voxels, self.least_coverage = 0, 1.0
        self.largest_volume = np.zeros(3, int)
        self.without_truth = 0
        self.films: list[dict[str, Any]] = []

    def add(self, case: Case, covered: float) -> None:
        self.subject, self.cases = case.subject, self.cases + 1
        self.least_coverage = min(self.least_coverage, covered)
        self.largest_volume = np.maximum(self.largest_volume, case.volume_shape_zyx)
        self.without_truth += case.target_hu is None
        self.films += [{"case_id": case.case_id, "view": v, **f} for v, f in case.film_fits.items()]
        blocks = [case]
        if self.split == "train":
            corners = block_corners(case.volume_shape_zyx, self.block)
            blocks = [block_of(case, start, self.block) for start in corners]
        for block in blocks:
            with disk_faults(self.path):
                self.writer.write(encode_case(block))
            self.records += 1
            if self.split == "train":
                self._add_residual(block)

    def _add_residual(self, block: Case) -> None:
        # Whole HU in float64: the sums are exact, in whatever order and number of threads.
        low, high = self.window_hu
        assert block.target_hu is not None
        flat = np.clip(block.target_hu.ravel(), low, high).astype(np.float64)
        flat -= np.clip(block.prior_hu.ravel(), low, high)
        self.sums += (flat.sum(), flat @ flat)
        self.voxels += flat.size

    def close(self) -> ShardSummary:
        with disk_faults(self.path):
            self.writer.close()
            _sync(self.path)
        z, y, x = self.largest_volume.tolist()
        return ShardSummary(
            name=self.path.name,
            split=self.split,
            subject=self.subject,
            cases=self.cases,
            records=self.records,
            size_bytes=self.path.stat().st_size,
            sha256=sha256_of(self.path),
            residual_sum=self.sums[0] / UNIT_HU,
            residual_square_sum=self.sums[1] / UNIT_HU**2,
            voxels=self.voxels,
            least_coverage=self.least_coverage,
            largest_volume_zyx=(z, y, x),
            without_truth=self.without_truth,
            films=len(self.films),
            poor_films=sum(film["correlation"] < LOW_CORRELATION for film in self.films),
            worst_film=min(self.films, key=lambda film: film["correlation"], default=None),
        )
