"""A batch's shapes and a data set's facts, told from a config where there are no records yet."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

import edm3d
from edm3d import experiment
from edm3d.data.cases import (
    DATASET_FILE,
    SCHEMA_VERSION,
    DatasetInfo,
    ScalarRanges,
    read_dataset_info,
)
from edm3d.data.xray_geometry import Cone

Config = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know
_PLACEHOLDER_STD = 0.1  # scales the residual; no cost depends on it


def info_of(config: Config) -> DatasetInfo:
    """The records' facts if there are records, else the config's, with a scale of no consequence.

    Raises:
        InputError: the records were built with other settings than the config states.
    """
    records, data = Path(config.records), config.data
    if (records / DATASET_FILE).is_file():
        info = read_dataset_info(records)
        experiment.check_data(config, info)
        return info
    return DatasetInfo(
        schema_version=SCHEMA_VERSION,
        edm3d_version=edm3d.__version__,
        spacing_mm=data.spacing_mm,
        window_hu=tuple(data.window_hu),
        residual_std=_PLACEHOLDER_STD,
        scalar_ranges=ScalarRanges(**{k: tuple(v) for k, v in data.scalar_ranges.items()}),
        geometry={"kind": data.geometry, "mu_water_per_mm": data.mu_water_per_mm},
        antialias=data.antialias,
        block=data.block,
        seed=config.seed,
        split_by="subject",
        subjects={},
        counts={},
        least_coverage={},
        largest_volume_zyx={},
        files={},
    )


def wire_batch(config: Config, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of `rows` training examples, as `edm3d.data.pipeline` makes them of records."""
    n, sides = config.patch, [f"{prior}{{}}_{v}" for prior in ("", "prior_") for v in ("pa", "lat")]
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        name: ((n, n, n), np.int16) for name in ("prior_hu", "target_hu")
    }
    if config.data.geometry == "cone":
        cells = Cone(**config.data.cone).cells
        shapes |= {side.format("film"): (cells, np.float32) for side in sides}
        shapes |= {"beam": ((4,), np.float32)}
    else:
        shapes |= {side.format("xray"): ((n, n), np.float32) for side in sides}
    shapes |= {"ventilation": ((6,), np.float32)}
    shapes |= {name: ((3,), np.float32) for name in ("start", "volume_shape")}
    return {k: jax.ShapeDtypeStruct((rows, *shape), dtype) for k, (shape, dtype) in shapes.items()}
