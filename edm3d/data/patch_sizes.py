"""Which side the patches of a step have, where a run mixes several: a function of (seed, step)."""

from collections.abc import Sequence

import numpy as np

_SIZE = 2  # the random stream of the seed; 0 and 1 are those of `edm3d.data.pipeline`


def patch_of_step(sizes: Sequence[tuple[int, float]], *, seed: int, step: int) -> int:
    """The side of all patches of batch `step`, one of `sizes`: (side, share of the steps)."""
    if len(sizes) == 1:
        return sizes[0][0]
    ends = np.cumsum([share for _, share in sizes])
    drawn = np.random.default_rng([_SIZE, seed, step]).random() * ends[-1]
    return sizes[min(int(np.searchsorted(ends, drawn, side="right")), len(sizes) - 1)][0]
