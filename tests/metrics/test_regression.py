"""Least squares and correlation against SciPy, known intervals and simulation."""

import numpy as np
import pytest
from scipy import optimize, stats

from edm3d.metrics import regression
from tests.metrics.published import MINI, WRIGHT


def test_regression_and_correlation_equal_published_and_scipy() -> None:
    fit = regression.linear_regression(WRIGHT, MINI)
    scipy_fit = stats.linregress(WRIGHT, MINI)
    assert (fit.slope, fit.intercept) == pytest.approx((0.9173479, 39.34028), abs=1e-5)
    assert (fit.slope, fit.intercept) == pytest.approx((scipy_fit.slope, scipy_fit.intercept))
    assert fit.r == pytest.approx(0.9432794, abs=1e-7)
    assert fit.r_squared == pytest.approx(scipy_fit.rvalue**2)
    assert fit.slope_p == pytest.approx(scipy_fit.pvalue)


def test_intervals_equal_scipys() -> None:
    fit = regression.linear_regression(WRIGHT, MINI, confidence=0.9)
    scipy_fit, t = stats.linregress(WRIGHT, MINI), stats.t.ppf(0.95, 15)
    assert np.ptp(fit.slope_ci) == pytest.approx(2 * t * scipy_fit.stderr)
    assert np.ptp(fit.intercept_ci) == pytest.approx(2 * t * scipy_fit.intercept_stderr)
    r = stats.pearsonr(WRIGHT, MINI).confidence_interval(0.9)
    assert fit.r_ci == pytest.approx((r.low, r.high))


def test_prediction_equals_the_covariance_of_a_general_least_squares_fit() -> None:
    fit = regression.linear_regression(WRIGHT, MINI)
    _, covariance = optimize.curve_fit(lambda x, a, b: a * x + b, WRIGHT, np.array(MINI, float))
    at, t = np.array([200.0, 451.0, 700.0]), stats.t.ppf(0.975, 15)
    design = np.column_stack([at, np.ones(3)])
    of_mean = np.einsum("ij,jk,ik->i", design, covariance, design)
    found = regression.predict(fit, at)
    assert found.mean_ci[1] - found.value == pytest.approx(t * np.sqrt(of_mean), rel=1e-5)
    of_new = t * np.sqrt(of_mean + fit.residual_sd**2)
    assert found.value - found.new_ci[0] == pytest.approx(of_new, rel=1e-5)


def test_prediction_interval_covers_a_new_scan_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    x, covered = np.linspace(0, 1, 6), []
    for noise, new in zip(rng.normal(size=(2000, 6)), rng.normal(size=2000), strict=True):
        low, high = regression.predict(
            regression.linear_regression(x, 2 * x + noise, confidence=0.8), 1.5
        ).new_ci
        covered.append(low <= 3 + new <= high)
    # three standard errors of 2000 draws
    assert np.mean(covered) == pytest.approx(0.8, abs=0.027)


def test_a_perfect_line_has_intervals_of_no_width() -> None:
    fit = regression.linear_regression([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0])
    assert (fit.slope_ci, fit.intercept_ci, fit.r_ci) == ((2, 2), (1, 1), (1, 1))
    assert (fit.slope_p, fit.residual_sd) == (0, 0)


def test_constant_values_have_no_correlation_and_raise_no_warning() -> None:
    constant, varying = np.full(4, 0.1), np.arange(4.0)
    assert np.isnan(regression.pearson_r(constant, varying))
    fit = regression.linear_regression(constant, varying)
    assert np.isnan([fit.slope, fit.r, *fit.slope_ci, *fit.r_ci, fit.slope_p]).all()
    assert np.isnan(regression.predict(fit, [1.0]).new_ci).all()
    flat = regression.linear_regression(varying, constant)
    assert (flat.slope, flat.slope_ci) == (0, (0, 0)) and np.isnan([flat.r, flat.slope_p]).all()


def test_too_few_scans_for_an_interval_have_none() -> None:
    two = regression.linear_regression([1.0, 2.0], [3.0, 5.0])
    assert two.slope == 2 and np.isnan([*two.slope_ci, *two.r_ci, two.residual_sd]).all()
    assert np.isnan(regression.predict(two, [1.0]).mean_ci).all()
    three = regression.linear_regression([1.0, 2.0, 3.0], [3.0, 5.0, 6.0])
    assert np.isfinite(three.slope_ci).all() and np.isnan(three.r_ci).all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [([], [], "at least"), ([1.0], [2.0], "at least 2"), ([1.0, np.nan], [1.0, 2.0], "NaN")],
)
def test_unusable_measurements_are_refused(x: list, y: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression.linear_regression(x, y)
