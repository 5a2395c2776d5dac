"""The fixed patches of held-back subjects on which a run's validation loss is taken."""

from pathlib import Path

import numpy as np

from edm3d.data.cases import read_cases, read_dataset_info
from edm3d.data.grid import random_corner
from edm3d.data.pipeline import patch_batch


def validation_batch(
    folder: Path, *, patch: int, count: int, seed: int
) -> dict[str, np.ndarray] | None:
    """One batch of `count` crops of the `val` cases, the same at every call; None without them.

    Cases are taken in turn, each with a position drawn from `seed`.
    """
    cases = read_cases(folder, "val")
    if not len(cases) or not count:
        return None
    info, rng = read_dataset_info(folder), np.random.default_rng(seed)
    chosen = np.linspace(0, len(cases), count, endpoint=False).astype(int)
    rows = []
    for index in chosen:
        case = cases[int(index)]
        start = random_corner(case.volume_shape_zyx, patch, rng)
        rows.append(patch_batch(case, info, start_zyx=start, patch=patch))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
