"""Limits of agreement of repeated measurements against the published examples."""

import numpy as np
import pytest

from edm3d.metrics import agreement, repeated
from tests.metrics.published import cardiac, pressures

FUNCTIONS = (
    repeated.repeated_measures_limits,
    repeated.constant_truth_limits,
    repeated.mover_varying_truth,
    repeated.mover_constant_truth,
)


def simulated(rng: np.random.Generator, m: np.ndarray, between: float) -> tuple:
    """Differences of unit within-subject SD for `m` scans of each subject, and the subjects."""
    subjects = np.repeat(np.arange(m.size), m)
    d = between * rng.normal(size=m.size)[subjects] + rng.normal(size=m.sum())
    return d, np.zeros_like(d), subjects


def test_varying_truth_of_2007_is_reproduced() -> None:
    rm = repeated.repeated_measures_limits(*cardiac())
    assert (rm.n, rm.subjects) == (60, 12)
    assert (rm.bias, rm.sd) == pytest.approx((0.602167, 0.990624), abs=1e-6)
    assert rm.sd_within**2 == pytest.approx(0.170713993, abs=1e-9)
    assert (rm.lower, rm.upper) == pytest.approx((-1.339457, 2.543790), abs=1e-6)
    assert rm.bias_of_means == pytest.approx(0.709236, abs=1e-6)
    rv, ic, _ = cardiac()
    assert agreement.bland_altman(rv, ic).sd == pytest.approx(0.961057, abs=1e-6)


def test_constant_truth_of_the_same_data_is_reproduced() -> None:
    rm = repeated.constant_truth_limits(*cardiac())
    assert rm.sd == pytest.approx(1.0518506, abs=5e-8)
    assert (rm.lower, rm.upper) == pytest.approx((-1.4594605, 2.6637939), abs=1e-7)


def test_replicated_blood_pressures_of_1999_are_reproduced() -> None:
    rm = repeated.constant_truth_limits(*pressures())
    assert (rm.n, rm.subjects) == (255, 85)
    assert rm.sd_within**2 == pytest.approx(37.408 + 83.141, abs=1e-3)
    assert (round(rm.bias, 4), round(rm.sd**2, 3), round(rm.sd, 3)) == (-15.6196, 438.858, 20.949)
    assert (rm.lower, rm.upper) == pytest.approx((-56.68, 25.44), abs=5e-3)
    # the variance of the subjects' mean differences, printed on the way
    assert rm.sd_between**2 + rm.sd_within**2 / 3 == pytest.approx(358.492, abs=1e-3)


def test_mover_intervals_equal_the_pinned_values() -> None:
    m = repeated.mover_varying_truth(*cardiac())
    assert (m.bias, m.sd) == pytest.approx((0.709236, 1.023525), abs=1e-6)
    assert (m.lower, m.upper) == pytest.approx((-1.296872, 2.715344), abs=1e-6)
    assert m.lower_ci == pytest.approx((-2.662969, -0.561064), abs=1e-6)
    assert m.upper_ci == pytest.approx((1.979536, 4.081441), abs=1e-6)
    assert repeated.mover_constant_truth(*cardiac()).sd == pytest.approx(1.0518506, abs=5e-8)


def test_with_equal_numbers_of_scans_both_centres_and_both_sds_are_one() -> None:
    d = simulated(np.random.default_rng(0), np.full(8, 5), between=2.0)
    limits, mover = repeated.repeated_measures_limits(*d), repeated.mover_varying_truth(*d)
    assert (limits.bias, limits.sd) == pytest.approx((mover.bias, mover.sd))
    assert limits.bias_of_means_ci == mover.bias_ci


@pytest.mark.parametrize("between", [0.3, 2.0])
def test_mover_covers_the_true_limit_where_the_naive_interval_does_not(between: float) -> None:
    rng = np.random.default_rng(3)
    m = np.tile([4, 8, 12], 3)
    truth = 1.96 * np.sqrt(between**2 + 1)
    draws = [simulated(rng, m, between) for _ in range(400)]
    ends = [repeated.mover_varying_truth(*d).upper_ci for d in draws]
    covered = np.mean([low <= truth <= high for low, high in ends])
    naive = [agreement.bland_altman(*d[:2]).upper_ci for d in draws]
    # three standard errors of 400 draws are 0.033; MOVER errs to the wide side
    assert 0.92 < covered
    if between == 2.0:
        assert np.mean([low <= truth <= high for low, high in naive]) < 0.8


def test_the_variance_of_one_scan_is_recovered_without_bias() -> None:
    rng = np.random.default_rng(4)
    m = np.tile([2, 6], 6)
    draws = [repeated.repeated_measures_limits(*simulated(rng, m, 1.5)).sd for _ in range(400)]
    assert np.mean(np.square(draws)) == pytest.approx(1.5**2 + 1, rel=0.1)


def test_subject_means_give_a_wider_bias_interval_than_clustered_scans() -> None:
    rv, ic, subjects = cardiac()
    rm, ba = repeated.repeated_measures_limits(rv, ic, subjects), agreement.bland_altman(rv, ic)
    assert np.ptp(rm.bias_of_means_ci) > 1.5 * np.ptp(ba.bias_ci)


def test_a_reference_measured_once_may_be_repeated() -> None:
    rng = np.random.default_rng(5)
    subjects = np.repeat(np.arange(6), 4)
    reference = np.repeat(rng.normal(1000, 100, 6), 4)
    measured = reference + rng.normal(0, 10, 24)
    limits = repeated.constant_truth_limits(measured, reference, subjects)
    varying = repeated.repeated_measures_limits(measured, reference, subjects)
    assert limits.sd_within == pytest.approx(varying.sd_within)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_repeated_limits_say_why_they_cannot_be_had(function) -> None:
    x = np.arange(4.0)
    with pytest.raises(ValueError, match="two subjects"):
        function(x, x, ["a"] * 4)
    with pytest.raises(ValueError, match="measured twice"):
        function(x, x, list("abcd"))
    with pytest.raises(ValueError, match="subjects have shape"):
        function(x, x, list("aab"))
    with pytest.raises(ValueError, match="NaN"):
        function(x * np.nan, x, list("aabb"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_equal_measurements_have_limits_of_no_width(function) -> None:
    x = np.array([0.0, 0.0, 3.0, 3.0])
    limits = function(x, x, list("aabb"))
    assert (limits.bias, limits.lower, limits.upper) == (0, 0, 0)
