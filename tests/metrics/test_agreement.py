"""Agreement statistics against published examples and identities."""

import numpy as np
import pytest
from scipy import stats

from edm3d.metrics import agreement

# Peak expiratory flow in l/min of 17 subjects: Bland & Altman 1986, table 1 (first readings).
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]

# Cardiac output in l/min of 12 subjects, RV then IC: Bland & Altman 1999, table 4.
CARDIAC = [
    "7.83 6.57 7.42 5.62 7.89 6.90 7.12 6.57 7.88 6.35",
    "6.16 4.06 7.26 4.29 6.71 4.26 6.54 4.09",
    "4.75 4.71 5.24 5.50 4.86 5.08 4.78 5.02 6.05 6.01 5.42 5.67",
    "4.21 4.14 3.61 4.20 3.72 4.61 3.87 4.68 3.92 5.04",
    "3.13 3.03 2.98 2.86 2.85 2.77 3.17 2.46 3.09 2.32 3.12 2.43",
    "5.92 5.90 6.42 5.81 5.92 5.70 6.27 5.76",
    "7.13 5.09 6.62 4.63 6.58 4.61 6.93 5.09",
    "4.54 4.72 4.81 4.61 5.11 4.36 5.29 4.20 5.39 4.36 5.57 4.20",
    "4.48 3.17 4.92 3.12 3.97 2.96",
    "4.22 4.35 4.65 4.62 4.74 3.16 4.44 3.53 4.50 3.53",
    "6.78 7.20 6.07 6.09 6.52 7.00 6.42 7.10 6.41 7.40 5.76 6.80",
    "5.06 4.50 4.72 4.20 4.90 3.80 4.80 3.80 4.90 4.20 5.10 4.50",
]


def cardiac() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = [np.array(row.split(), float).reshape(-1, 2) for row in CARDIAC]
    subjects = np.concatenate([np.full(len(p), i) for i, p in enumerate(pairs)])
    both = np.concatenate(pairs)
    return both[:, 0], both[:, 1], subjects


def standardised(n: int, mean: float, sd: float) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=n)
    return mean + sd * (x - x.mean()) / x.std(ddof=1)


def test_bland_altman_1986_is_reproduced_to_the_printed_digit() -> None:
    ba = agreement.bland_altman(WRIGHT, MINI, multiplier=2)
    assert (round(ba.bias, 1), round(ba.sd, 1)) == (-2.1, 38.8)
    assert ba.bias_ci == pytest.approx((-22.0, 17.8), abs=0.05)
    # The paper computes on from its rounded bias and SD (-79.7, 75.5, -114.3 ... 110.1).
    assert (ba.lower, ba.upper) == pytest.approx((-79.7, 75.5), abs=0.1)
    assert ba.lower_ci == pytest.approx((-114.3, -45.1), abs=0.15)
    assert ba.upper_ci == pytest.approx((40.9, 110.1), abs=0.2)


def test_unrounded_pefr_statistics() -> None:
    ba = agreement.bland_altman(WRIGHT, MINI)
    assert (ba.bias, ba.sd) == pytest.approx((-2.117647, 38.765130), abs=1e-6)
    assert (ba.lower, ba.upper) == pytest.approx((-78.0973, 73.8620), abs=1e-4)
    double = agreement.bland_altman(WRIGHT, MINI, multiplier=2)
    assert double.lower_ci == pytest.approx((-114.170, -45.126), abs=1e-3)
    assert double.upper_ci == pytest.approx((40.891, 109.934), abs=1e-3)


def test_bland_altman_1999_blood_pressure_limits_follow_from_its_mean_and_sd() -> None:
    ba = agreement.bland_altman(standardised(85, -16.2941, 19.6110), np.zeros(85))
    assert (round(ba.lower, 1), round(ba.upper, 1)) == (-54.7, 22.1)
    half = (ba.upper_ci[1] - ba.upper_ci[0]) / 2
    assert half / stats.t.ppf(0.975, 84) == pytest.approx(1.71 * 19.6110 / np.sqrt(85), rel=2e-3)


def test_repeated_measures_limits_of_2007_are_reproduced() -> None:
    rm = agreement.repeated_measures_limits(*cardiac())
    assert (rm.n, rm.subjects) == (60, 12)
    assert (rm.bias, rm.sd) == pytest.approx((0.602167, 0.990624), abs=1e-6)
    assert rm.sd_within**2 == pytest.approx(0.170713993, abs=1e-9)
    assert (rm.lower, rm.upper) == pytest.approx((-1.339457, 2.543790), abs=1e-6)
    assert rm.bias_of_means == pytest.approx(0.709236, abs=1e-6)
    rv, ic, _ = cardiac()
    assert agreement.bland_altman(rv, ic).sd == pytest.approx(0.961057, abs=1e-6)


def test_subject_means_give_a_wider_bias_interval_than_clustered_scans() -> None:
    rv, ic, subjects = cardiac()
    rm, ba = agreement.repeated_measures_limits(rv, ic, subjects), agreement.bland_altman(rv, ic)
    assert np.ptp(rm.bias_of_means_ci) > 1.5 * np.ptp(ba.bias_ci)


def test_regression_and_correlation_equal_published_and_scipy() -> None:
    fit = agreement.linear_regression(WRIGHT, MINI)
    scipy_fit = stats.linregress(WRIGHT, MINI)
    assert (fit.slope, fit.intercept) == pytest.approx((0.9173479, 39.34028), abs=1e-5)
    assert (fit.slope, fit.intercept) == pytest.approx((scipy_fit.slope, scipy_fit.intercept))
    assert fit.r == pytest.approx(0.9432794, abs=1e-7)
    assert fit.r_squared == pytest.approx(scipy_fit.rvalue**2)


def test_concordance_equals_published_and_its_identities() -> None:
    assert agreement.concordance(WRIGHT, MINI) == pytest.approx(0.9427424, abs=1e-7)
    x = np.array(WRIGHT, float)
    assert agreement.concordance(x, x) == pytest.approx(1.0)
    assert agreement.concordance(MINI, WRIGHT) == agreement.concordance(WRIGHT, MINI)
    shifted, s2 = agreement.concordance(x, x + 50), 2 * x.var()
    assert shifted == pytest.approx(s2 / (s2 + 50**2))


def test_known_shift_is_the_bias_with_no_spread() -> None:
    x = np.linspace(500, 900, 9)
    ba = agreement.bland_altman(x + 12.5, x)
    assert (ba.bias, ba.lower, ba.upper) == pytest.approx((12.5, 12.5, 12.5))
    assert agreement.mean_absolute_error(x - 12.5, x) == pytest.approx(12.5)


def test_constant_values_have_no_correlation_and_raise_no_warning() -> None:
    constant, varying = np.full(4, 0.1), np.arange(4.0)
    assert np.isnan(agreement.pearson_r(constant, varying))
    assert np.isnan(agreement.linear_regression(constant, varying).slope)
    assert agreement.linear_regression(varying, constant).slope == 0
    assert np.isnan(agreement.concordance(constant, constant))
    assert agreement.concordance(varying, constant) == 0


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([], [], "at least"),
        ([1.0], [2.0], "at least 2"),
        ([1.0, np.nan], [1.0, 2.0], "NaN"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "one length"),
    ],
)
def test_unusable_measurements_are_refused(x: list, y: list, message: str) -> None:
    for function in (agreement.bland_altman, agreement.linear_regression, agreement.concordance):
        with pytest.raises(ValueError, match=message):
            function(x, y)


def test_repeated_limits_say_why_they_cannot_be_had() -> None:
    x = np.arange(4.0)
    with pytest.raises(ValueError, match="two subjects"):
        agreement.repeated_measures_limits(x, x, ["a"] * 4)
    with pytest.raises(ValueError, match="measured twice"):
        agreement.repeated_measures_limits(x, x, list("abcd"))
