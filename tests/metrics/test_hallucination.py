"""The named variant of the Hallucination Index against closed forms."""

import numpy as np
import pytest

from edm3d.metrics import hallucination
from edm3d.metrics.hallucination import hellinger, hi_diag


def samples(sd: float, bias: float = 0.0, *, k: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(-600, 200, (6, 6, 6))
    return truth + bias + sd * rng.normal(size=(k, 6, 6, 6)), truth


@pytest.mark.parametrize(
    ("mean", "sd", "distance"), [(1, 1, 0.342787), (0, 2, 0.324920), (1, 2, 0.386257), (0, 1, 0)]
)
def test_hellinger_distances_equal_the_pinned_values(mean, sd, distance) -> None:
    assert hellinger(0, 1, mean, sd**2) == pytest.approx(distance, abs=5e-7)
    assert hellinger(mean, sd**2, 0, 1) == pytest.approx(distance, abs=5e-7)


def test_distance_is_between_0_and_1() -> None:
    assert hellinger(0, 1, 1e6, 1) == 1
    assert np.isfinite(hellinger(0, 1e-300, 0, 1e300))


def test_many_samples_reach_the_gaussian_distance() -> None:
    index = hi_diag(*samples(18.0, bias=18.0)).index
    # 400 samples know mean and SD to 5 %
    assert index == pytest.approx(0.342787, abs=0.02)
    assert hi_diag(*samples(18.0)).index < 0.04


def test_what_is_not_in_the_truth_raises_the_index_where_it_is() -> None:
    drawn, truth = samples(18.0)
    nodule = np.zeros(truth.shape, bool)
    nodule[:3, :3, :3] = True
    invented = drawn + 100 * nodule
    inside, outside = (hi_diag(invented, truth, mask=m).index for m in (nodule, ~nodule))
    assert inside > 0.7 and outside < 0.1
    assert hi_diag(invented, truth, mask=nodule).voxels == 27


def test_a_matched_reference_forgives_width_and_not_bias() -> None:
    wide = samples(54.0)
    fixed, matched = hi_diag(*wide), hi_diag(*wide, reference_sd_hu=None)
    assert (fixed.variant, fixed.reference_sd_hu) == ("hi_diag", 18.0)
    assert matched.reference_sd_hu == pytest.approx(54, rel=0.02)
    assert matched.index < 0.05 < 0.4 < fixed.index
    assert hi_diag(*samples(54.0, bias=54.0), reference_sd_hu=None).index > 0.3


def test_equal_samples_are_sharp_not_undefined() -> None:
    drawn, truth = samples(0.0, k=8)
    found = hi_diag(drawn, truth)
    # N(0, 1) of the floor against N(0, 18²)
    assert found.index == pytest.approx(hellinger(0, 1, 0, 18**2)) and found.members == 8


def test_unusable_samples_are_refused() -> None:
    drawn, truth = samples(18.0, k=8)
    with pytest.raises(ValueError, match="at least 8 samples, got 7"):
        hi_diag(drawn[:7], truth)
    with pytest.raises(ValueError, match="shape"):
        hi_diag(drawn, truth[:2])
    with pytest.raises(ValueError, match="empty"):
        hi_diag(drawn, truth, mask=np.zeros(truth.shape))
    with pytest.raises(ValueError, match="NaN"):
        hi_diag(drawn * np.nan, truth)
    with pytest.raises(ValueError, match="positive"):
        hi_diag(drawn, truth, reference_sd_hu=0.0)
    assert hallucination.FEWEST_MEMBERS == 8
