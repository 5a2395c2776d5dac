"""Patches of several sizes in one run: each step has one, known from the seed and the step."""

from contextlib import closing

import numpy as np
import pytest

from edm3d.data.patch_sizes import patch_of_step
from edm3d.data.pipeline import train_batches

SIZES = ((4, 0.25), (8, 0.75))


def test_steps_have_the_shares_asked_for():
    drawn = [patch_of_step(SIZES, seed=0, step=step) for step in range(4000)]
    assert set(drawn) == {4, 8}
    # 4000 draws: standard error 0.007
    assert np.mean(np.array(drawn) == 4) == pytest.approx(0.25, abs=0.03)
    other = [patch_of_step(SIZES, seed=1, step=step) for step in range(4000)]
    assert drawn != other


def test_a_single_size_is_that_of_every_step():
    assert {patch_of_step(((6, 1.0),), seed=0, step=step) for step in range(50)} == {6}


def _take(folder, count, **changes):
    settings = {"patch": SIZES, "batch": 4, "seed": 3, **changes}
    with closing(train_batches(folder, **settings)) as batches:
        return [next(batches) for _ in range(count)]


@pytest.fixture(scope="module")
def batches(tiny_records):
    return _take(tiny_records, 12)


def test_all_patches_of_a_batch_have_the_side_of_its_step(batches):
    sides = [batch["prior_hu"].shape[1:] for batch in batches]
    assert sides == [(patch_of_step(SIZES, seed=3, step=step),) * 3 for step in range(12)]
    assert len(set(sides)) == 2
    for batch, (side, *_) in zip(batches, sides, strict=True):
        assert batch["xray_pa"].shape == batch["xray_lat"].shape == (4, side, side)


@pytest.mark.parametrize("changes", [{"workers": 2}, {"rows": (2, 3)}])
def test_sizes_are_the_same_after_a_resume_in_workers_and_in_every_process(
    tiny_records, batches, changes
):
    rows = slice(2, 4) if "rows" in changes else slice(None)
    later = _take(tiny_records, 4, first_step=6, **changes)
    for whole, part in zip(batches[6:10], later, strict=True):
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][rows])


def test_a_step_s_patches_are_those_of_a_run_of_its_size_alone(tiny_records, batches):
    """Only the size differs between steps, not which records are taken."""
    for side in (4, 8):
        alone = _take(tiny_records, 12, patch=side)
        for mixed, single in zip(batches, alone, strict=True):
            if mixed["prior_hu"].shape[1] == side:
                np.testing.assert_array_equal(mixed["prior_hu"], single["prior_hu"])
