"""Concordance and intraclass correlation against published values and identities."""

import numpy as np
import pytest

from edm3d.metrics import reliability
from tests.metrics.published import JUDGES, MINI, WRIGHT


def test_shrout_and_fleiss_1979_is_reproduced_to_the_printed_digit() -> None:
    icc = reliability.intraclass(JUDGES)
    assert (icc.n, icc.raters) == (6, 4)
    squares = (icc.between_targets_ms, icc.between_raters_ms, icc.error_ms)
    assert squares == pytest.approx((11.24, 32.49, 1.02), abs=5e-3)
    assert (round(icc.agreement, 2), round(icc.consistency, 2)) == (0.29, 0.71)
    assert (icc.agreement, icc.consistency) == pytest.approx((0.289764, 0.714841), abs=1e-6)
    assert icc.agreement_ci == pytest.approx((0.018787, 0.761084), abs=1e-6)
    assert icc.consistency_ci == pytest.approx((0.342465, 0.945858), abs=1e-6)


def test_intraclass_of_the_flow_meters_equals_the_pinned_values() -> None:
    icc = reliability.intraclass(np.column_stack([WRIGHT, MINI]))
    assert icc.agreement == pytest.approx(0.945928, abs=1e-6)
    assert icc.agreement_ci == pytest.approx((0.857411, 0.980079), abs=1e-6)
    assert icc.consistency == pytest.approx(0.942913, abs=1e-6)
    assert icc.consistency_ci == pytest.approx((0.849908, 0.978943), abs=1e-6)


def test_a_raters_offset_lowers_agreement_and_leaves_consistency() -> None:
    x = np.array(JUDGES, float)
    shifted = reliability.intraclass(x + np.array([0, 0, 0, 10]))
    assert shifted.consistency == pytest.approx(reliability.intraclass(x).consistency)
    assert shifted.agreement < reliability.intraclass(x).agreement / 2


def test_intraclass_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    targets, error = rng.normal(0, 2, (600, 12, 1)), rng.normal(0, 1, (600, 12, 3))
    raters = rng.normal(0, 1, (600, 1, 3))
    found = [reliability.intraclass(r) for r in targets + raters + error]
    agreement = np.mean([f.agreement_ci[0] <= 4 / 6 <= f.agreement_ci[1] for f in found])
    consistency = np.mean([f.consistency_ci[0] <= 4 / 5 <= f.consistency_ci[1] for f in found])
    # three standard errors of 600 draws; the interval of ICC(2,1) is approximate
    assert consistency == pytest.approx(0.95, abs=0.027)
    assert agreement == pytest.approx(0.95, abs=0.04)


def test_concordance_equals_its_pins_and_its_identities() -> None:
    assert reliability.concordance(WRIGHT, MINI) == pytest.approx(0.9427424, abs=1e-7)
    x = np.array(WRIGHT, float)
    assert reliability.concordance(x, x) == pytest.approx(1.0)
    assert reliability.concordance(MINI, WRIGHT) == reliability.concordance(WRIGHT, MINI)
    shifted, s2 = reliability.concordance(x, x + 50), 2 * x.var()
    assert shifted == pytest.approx(s2 / (s2 + 50**2))


def test_lins_interval_and_accuracy_equal_the_pinned_values() -> None:
    lin = reliability.lin_concordance(WRIGHT, MINI)
    assert lin.interval == pytest.approx((0.850492, 0.978726), abs=1e-6)
    assert lin.accuracy == pytest.approx(0.9994307, abs=1e-7)
    assert lin.coefficient == pytest.approx(lin.r * lin.accuracy)


def test_lins_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(600, 30))
    x, y = truth + rng.normal(0, 0.5, (2, 600, 30))
    true = 2 * 1 / (2 * 1.25 + 0.3**2)
    ends = [reliability.lin_concordance(a, b + 0.3).interval for a, b in zip(x, y, strict=True)]
    # three standard errors of 600 draws; the interval is asymptotic, at n = 30
    assert np.mean([low <= true <= high for low, high in ends]) == pytest.approx(0.95, abs=0.03)


def test_lins_standard_error_is_the_spread_of_z_under_a_large_shift() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(500, 200))
    x, y = truth + rng.normal(0, 0.3, (2, 500, 200))
    pairs = zip(x, y + 2, strict=True)
    z = np.arctanh([reliability.lin_concordance(a, b).interval for a, b in pairs])
    claimed, seen = np.mean(z[:, 1] - z[:, 0]) / (2 * 1.96), z.mean(1).std()
    # 500 draws know a spread to 3 %
    assert claimed == pytest.approx(seen, rel=0.1)


def test_equal_measurements_agree_without_doubt() -> None:
    x = np.arange(5.0)
    assert reliability.lin_concordance(x, x).interval == pytest.approx((1, 1))
    icc = reliability.intraclass(np.column_stack([x, x]))
    assert (icc.agreement, icc.consistency) == (1, 1)
    assert np.isnan([*icc.agreement_ci, *icc.consistency_ci]).all()


def test_constant_values_have_no_coefficient_and_raise_no_warning() -> None:
    constant, varying = np.full(4, 0.1), np.arange(4.0)
    assert np.isnan(reliability.concordance(constant, constant))
    lin = reliability.lin_concordance(varying, constant)
    assert lin.coefficient == 0 and np.isnan([*lin.interval, lin.r, lin.accuracy]).all()
    icc = reliability.intraclass(np.full((7, 3), 0.1))  # whose mean rounds
    assert np.isnan([icc.agreement, icc.consistency, *icc.agreement_ci]).all()


def test_unusable_ratings_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        reliability.intraclass(np.ones((1, 2)))
    with pytest.raises(ValueError, match="NaN"):
        reliability.intraclass([[1, 2], [np.nan, 3]])
    with pytest.raises(ValueError, match="at least 3"):
        reliability.lin_concordance([1, 2], [1, 2])
