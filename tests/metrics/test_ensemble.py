"""Scores of ensembles against closed forms, and calibration of ensembles that are calibrated."""

import numpy as np
import pytest
from scipy import stats

from edm3d.metrics import ensemble


def posterior(k: int, n: int = 20_000, *, width: float = 1.0, bias: float = 0.0) -> tuple:
    """K members and the truth of n cases, drawn alike but for `width` and `bias`."""
    rng = np.random.default_rng(0)
    centre = rng.normal(0, 3, n)
    samples = centre + bias + width * rng.normal(size=(k, n))
    return samples, centre + rng.normal(size=n)


def test_crps_of_three_members_equals_the_pinned_values() -> None:
    members, truth = [[0.0], [1.0], [2.0]], [0.5]
    assert ensemble.crps(members, truth) == pytest.approx([1 / 6])
    assert ensemble.crps(members, truth, fair=False) == pytest.approx([0.388889], abs=5e-7)


def test_crps_of_a_large_gaussian_ensemble_is_the_closed_form() -> None:
    members = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    for truth, score in ((0.0, 0.233695), (1.0, 0.602441)):
        assert ensemble.crps(members, truth, fair=False) == pytest.approx(score, abs=1e-4)


def test_crps_equals_the_sum_over_all_pairs() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3, 4)), rng.normal(size=(3, 4))
    apart = np.abs(x[:, None] - x[None]).sum((0, 1))
    assert ensemble.crps(x, y) == pytest.approx(np.abs(x - y).mean(0) - apart / 40)
    assert ensemble.crps(x, y, fair=False) == pytest.approx(np.abs(x - y).mean(0) - apart / 50)


def test_fair_crps_does_not_depend_on_the_number_of_members() -> None:
    fair, plain = (
        [ensemble.crps(*posterior(k), fair=f).mean() for k in (2, 16)] for f in (True, False)
    )
    # Gaussian, truth and forecast alike: 1/sqrt(pi); 20 000 cases know it to 0.005
    assert fair == pytest.approx([1 / np.sqrt(np.pi)] * 2, abs=0.015)
    assert plain[0] > plain[1] + 0.2


def test_one_member_has_an_absolute_error() -> None:
    assert ensemble.crps([[3.0]], [1.0], fair=False) == pytest.approx([2])


@pytest.mark.parametrize("k", [4, 8])
def test_a_true_posterior_has_equal_spread_and_skill_and_the_gain_of_averaging(k: int) -> None:
    found = ensemble.spread_skill(*posterior(k))
    assert (found.n, found.members) == (20_000, k)
    # 20 000 cases know a ratio of squares to 1 %
    assert found.ratio == pytest.approx(1, abs=0.03)
    assert found.gain == pytest.approx(found.expected_gain, rel=0.03)
    assert found.expected_gain == pytest.approx(2 * k / (k + 1))


def test_an_overconfident_ensemble_has_less_spread_than_skill() -> None:
    found = ensemble.spread_skill(*posterior(8, width=0.5))
    assert found.ratio < 0.6 and found.gain < found.expected_gain - 0.3


def test_ranks_are_flat_for_a_posterior_and_pile_up_at_the_ends_of_a_narrow_one() -> None:
    flat = ensemble.rank_histogram(*posterior(7))
    assert len(flat.counts) == 8 and sum(flat.counts) == 20_000 and flat.p > 0.01
    narrow = ensemble.rank_histogram(*posterior(7, width=0.5))
    assert narrow.counts[0] > 2 * narrow.counts[4] < narrow.counts[-1] and narrow.p < 1e-6
    high = ensemble.rank_histogram(*posterior(7, bias=2.0))
    assert high.counts[0] > high.counts[-1]  # the members are too high: the truth is below them


def test_ties_are_shared_out_evenly_and_repeatably() -> None:
    samples, truth = np.zeros((3, 8000)), np.zeros(8000)
    found = ensemble.rank_histogram(samples, truth, seed=3)
    assert found.p > 0.01 and found == ensemble.rank_histogram(samples, truth, seed=3)


def test_intervals_cover_what_they_say_for_a_posterior_and_less_for_a_narrow_one() -> None:
    for nominal in (0.5, 0.8, 0.95):
        found = ensemble.coverage(*posterior(39), nominal)
        # three standard errors of 20 000 cases are 0.01
        assert found.observed == pytest.approx(nominal, abs=0.012)
        assert found.expected == nominal
    assert ensemble.coverage(*posterior(39, width=0.5), 0.8).observed < 0.6


def test_few_members_say_how_much_they_can_cover() -> None:
    found = ensemble.coverage(*posterior(8), 0.95)
    assert found.expected == pytest.approx(7 / 9)
    assert found.observed == pytest.approx(7 / 9, abs=0.012)


def test_a_constant_ensemble_that_is_right_has_no_ratio() -> None:
    found = ensemble.spread_skill(np.ones((4, 3)), np.ones(3))
    assert (found.spread, found.skill) == (0, 0) and np.isnan([found.ratio, found.gain]).all()
    assert ensemble.coverage(np.ones((4, 3)), np.ones(3), 0.5).observed == 1


@pytest.mark.parametrize(
    "function",
    [
        ensemble.crps,
        ensemble.spread_skill,
        ensemble.rank_histogram,
        lambda x, y: ensemble.coverage(x, y, 0.5),
    ],
)
def test_unusable_ensembles_are_refused(function) -> None:
    with pytest.raises(ValueError, match="samples have shape"):
        function(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ValueError, match="members"):
        function(np.ones((0, 2)), np.ones(2))
    with pytest.raises(ValueError, match="NaN"):
        function(np.full((3, 2), np.nan), np.ones(2))
    with pytest.raises(ValueError, match="empty"):
        function(np.ones((3, 0)), np.ones(0))


def test_one_member_has_no_spread() -> None:
    for function in (ensemble.crps, ensemble.spread_skill):
        with pytest.raises(ValueError, match="at least 2 members"):
            function(np.ones((1, 2)), np.ones(2))
    with pytest.raises(ValueError, match="nominal"):
        ensemble.coverage(np.ones((2, 2)), np.ones(2), 95)
