"""What `dataset.json` says of shards: residual std, counts, subjects, checksums."""

import math
from collections.abc import Sequence

import numpy as np

import edm3d
from edm3d.data.cases import SCHEMA_VERSION, SPLITS, DatasetInfo
from edm3d.data.shard_file import ShardSummary
from edm3d.data.shards import RecordSettings
from edm3d.errors import InputError


def _residual_std(shards: Sequence[ShardSummary]) -> float:
    voxels = sum(s.voxels for s in shards)
    mean = math.fsum(s.residual_sum for s in shards) / voxels
    square = math.fsum(s.residual_square_sum for s in shards) / voxels
    std = math.sqrt(max(square - mean**2, 0.0))
    if std == 0:
        raise InputError("residual std of the training pairs is 0; their scans are copies")
    return std


def dataset_info(
    shards: Sequence[ShardSummary], settings: RecordSettings, seed: int, split_by: str
) -> DatasetInfo:
    def of(split: str) -> list[ShardSummary]:
        return [shard for shard in shards if shard.split == split]

    return DatasetInfo(
        schema_version=SCHEMA_VERSION,
        edm3d_version=edm3d.__version__,
        spacing_mm=settings.spacing_mm,
        window_hu=settings.window_hu,
        residual_std=_residual_std(shards),
        scalar_ranges=settings.scalar_ranges,
        geometry=settings.geometry.to_json(),
        antialias=settings.antialias,
        block=settings.block,
        seed=seed,
        split_by=split_by,
        subjects={split: sorted({s.subject for s in of(split)}) for split in SPLITS},
        counts={
            split: {
                "cases": sum(s.cases for s in of(split)),
                "records": sum(s.records for s in of(split)),
            }
            for split in SPLITS
        },
        least_coverage={
            split: min((s.least_coverage for s in of(split)), default=1.0) for split in SPLITS
        },
        largest_volume_zyx={
            split: np.max([(0, 0, 0), *(s.largest_volume_zyx for s in of(split))], axis=0).tolist()
            for split in SPLITS
        },
        files={s.name: {"sha256": s.sha256, "bytes": s.size_bytes} for s in shards},
    )
