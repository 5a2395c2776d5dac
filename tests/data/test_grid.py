import itertools

import numpy as np
import pytest

from edm3d.data.grid import block_corners, block_starts, crop, random_corner


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 40, 161, 200, 320, 321])
@pytest.mark.parametrize("block", [8, 16, 160])
def test_blocks_cover_every_voxel_stay_inside_and_overlap(size, block):
    starts = block_starts(size, block)
    length = min(size, block)
    covered = np.zeros(size, int)
    for start in starts:
        assert 0 <= start <= size - length
        covered[start : start + length] += 1
    assert covered.min() >= 1
    overlaps = [a + length - b for a, b in itertools.pairwise(starts)]
    assert all(overlap >= block // 4 for overlap in overlaps)


def test_every_voxel_is_reached_by_crops_of_blocks():
    shape, block, patch = (13, 9, 20), 12, 8
    reached = np.zeros(shape, bool)
    rng = np.random.default_rng(0)
    for corner in block_corners(shape, block):
        size = [min(n, block) for n in shape]
        for _ in range(400):
            start = np.array(corner) + random_corner(size, patch, rng)
            reached[tuple(slice(a, a + patch) for a in start)] = True
    assert reached.all()


def test_crop_corners_are_uniform_from_first_to_last():
    rng = np.random.default_rng(1)
    corners = np.array([random_corner((10, 8, 5), 8, rng) for _ in range(3000)])
    assert set(corners[:, 1]) == {0} and set(corners[:, 2]) == {0}
    counts = np.bincount(corners[:, 0], minlength=3)
    # Three equal chances of 3000: five standard deviations are 130.
    assert len(counts) == 3 and np.all(np.abs(counts - 1000) < 130)


def test_crop_pads_on_every_side():
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(crop(array, (0, 1, 1), (2, 2, 3), fill=-1), array[:, 1:, 1:])
    padded = crop(array, (-1, 2, 0), (3, 2, 5), fill=-1)
    assert padded.shape == (3, 2, 5)
    np.testing.assert_array_equal(padded[1:, :1, :4], array[:, 2:, :])
    assert np.count_nonzero(padded == -1) == 30 - 8
