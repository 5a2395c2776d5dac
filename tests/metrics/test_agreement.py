"""Bland-Altman analysis against published examples and identities."""

import numpy as np
import pytest
from scipy import stats

from edm3d.metrics import agreement
from tests.metrics.published import MINI, WRIGHT, pressures


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


def test_bland_altman_1999_blood_pressure_is_reproduced_to_the_printed_digit() -> None:
    j, s, _ = pressures()
    ba = agreement.bland_altman(j[:85], s[:85])
    assert (round(ba.bias, 2), round(ba.sd, 2)) == (-16.29, 19.61)
    assert (round(ba.lower, 1), round(ba.upper, 1)) == (-54.7, 22.1)
    half = (ba.upper_ci[1] - ba.upper_ci[0]) / 2
    assert half / stats.t.ppf(0.975, 84) == pytest.approx(1.71 * 19.6110 / np.sqrt(85), rel=2e-3)


def test_exact_intervals_of_the_limits_equal_the_pinned_values() -> None:
    ba = agreement.bland_altman(WRIGHT, MINI)
    assert ba.lower_ci_exact == pytest.approx((-124.163, -53.096), abs=5e-4)
    assert ba.upper_ci_exact == pytest.approx((48.861, 119.928), abs=5e-4)


def test_exact_and_approximate_intervals_meet_in_large_samples() -> None:
    near, far = agreement.exact_multipliers(100_000)
    half = 1.96 * np.sqrt((1 + 1.96**2 / 2) / 100_000)
    assert (near, far) == pytest.approx((1.96 - half, 1.96 + half), abs=1e-4)


def test_exact_interval_covers_the_true_limit_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 8))
    found = [agreement.bland_altman(d, np.zeros(8), confidence=0.9) for d in draws]
    exact = np.mean([b.upper_ci_exact[0] <= 1.96 <= b.upper_ci_exact[1] for b in found])
    bias = np.mean([b.bias_ci[0] <= 0 <= b.bias_ci[1] for b in found])
    # three standard errors of 2000 draws are 0.02
    assert (exact, bias) == pytest.approx((0.9, 0.9), abs=0.02)


def test_proportional_bias_is_found_where_it_is_and_only_there() -> None:
    rng = np.random.default_rng(1)
    truth, noise = np.linspace(500, 2000, 60), rng.normal(0, 30, (2, 60))
    grows = agreement.proportional_bias(1.1 * truth + noise[0], truth + noise[1])
    assert grows.slope_p < 1e-6 and grows.slope_ci[0] < 0.1 / 1.05 < grows.slope_ci[1]
    same = agreement.proportional_bias(truth + noise[0], truth + noise[1])
    assert same.slope_p > 0.05
    assert agreement.proportional_bias(WRIGHT, MINI).slope == pytest.approx(0.0286874, abs=1e-7)


def test_a_noisy_reference_alone_gives_a_negative_slope_on_itself() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 1, 2000)
    x, y = truth + rng.normal(0, 1, (2, 2000))
    assert agreement.proportional_bias(x, y, on_reference=True).slope == pytest.approx(
        -0.5, abs=0.1
    )
    assert abs(agreement.proportional_bias(x, y).slope) < 0.1


def test_known_shift_is_the_bias_with_no_spread() -> None:
    x = np.linspace(500, 900, 9)
    ba = agreement.bland_altman(x + 12.5, x)
    assert (ba.bias, ba.lower, ba.upper) == pytest.approx((12.5, 12.5, 12.5))
    assert agreement.mean_absolute_error(x - 12.5, x) == pytest.approx(12.5)


def test_constant_difference_has_limits_of_no_width() -> None:
    ba = agreement.bland_altman([1.0, 2.0, 4.0], [0.0, 1.0, 3.0])
    assert (ba.sd, ba.lower_ci_exact, ba.upper_ci) == (0, (1, 1), (1, 1))


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


def test_an_impossible_confidence_is_named() -> None:
    with pytest.raises(ValueError, match="confidence is 95"):
        agreement.bland_altman(WRIGHT, MINI, confidence=95)
