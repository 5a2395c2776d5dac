"""Blocks, crops and padding of voxel grids. Positions are corners in voxels, (z, y, x)."""

import itertools
from collections.abc import Sequence

import numpy as np

Corner = tuple[int, int, int]


def block_starts(size: int, block: int) -> list[int]:
    """Starts along one axis of blocks of at most `block` voxels that together cover `size`.

    Neighbours overlap by a quarter of a block or more, so that crops straddle every block face.
    """
    if size <= block:
        return [0]
    overlap = block // 4
    count = -(-(size - overlap) // (block - overlap))
    return [round(i * (size - block) / (count - 1)) for i in range(count)]


def block_corners(shape_zyx: Sequence[int], block: int) -> list[Corner]:
    """Corners of the blocks of a volume, z slowest."""
    z, y, x = (block_starts(size, block) for size in shape_zyx)
    return list(itertools.product(z, y, x))


def crop(array: np.ndarray, start: Sequence[int], shape: Sequence[int], *, fill: float):
    """The part of `array` from `start` on, of `shape`; what lies outside `array` is `fill`."""
    stop = [a + n for a, n in zip(start, shape, strict=True)]
    inside = [slice(max(a, 0), b) for a, b in zip(start, stop, strict=True)]
    part = array[tuple(inside)]
    if part.shape == tuple(shape):
        return part
    before = [max(-a, 0) for a in start]
    result = np.full(shape, fill, array.dtype)
    result[tuple(slice(b, b + n) for b, n in zip(before, part.shape, strict=True))] = part
    return result


def random_corner(size_zyx: Sequence[int], patch: int, rng: np.random.Generator) -> Corner:
    """A crop corner, uniform over 0..size - patch inclusive; 0 where the patch is larger."""
    z, y, x = (int(rng.integers(0, max(size - patch, 0) + 1)) for size in size_zyx)
    return z, y, x
