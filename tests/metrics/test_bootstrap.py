"""The bootstrap over subjects against SciPy's and against what clusters do."""

import numpy as np
import pytest
from scipy import stats

from edm3d.metrics import agreement, bootstrap
from tests.metrics.published import MINI, WRIGHT, cardiac


def mean(means: np.ndarray, n: np.ndarray) -> np.ndarray:
    return means[:, 0]


def sd(means: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.sqrt((means[:, 1] - means[:, 0] ** 2) * n / (n - 1))


def test_one_scan_a_subject_is_scipys_bca_bootstrap() -> None:
    d = np.subtract(WRIGHT, MINI).astype(float)
    ours = bootstrap.cluster_bootstrap(sd, np.c_[d, d**2], np.arange(17), replicates=20_000)
    theirs = stats.bootstrap(
        (d,), lambda a, axis: a.std(axis=axis, ddof=1), n_resamples=20_000, rng=1
    )
    # two runs of 20 000 replicates differ by about 0.01 SD at either end
    assert ours.bca == pytest.approx(tuple(theirs.confidence_interval), abs=1.0)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.03)
    assert ours.bca[1] > ours.percentile[1] + 2


def test_estimates_are_those_of_the_whole_sample() -> None:
    rv, ic, subjects = cardiac()
    boot = bootstrap.bootstrap_agreement(rv, ic, subjects)
    ba, fit = agreement.bland_altman(rv, ic), agreement.linear_regression(ic, rv)
    assert boot.subjects == 12
    found = [getattr(boot, name).estimate for name in ("bias", "sd", "lower", "upper")]
    assert found == pytest.approx([ba.bias, ba.sd, ba.lower, ba.upper])
    assert boot.slope.estimate == pytest.approx(fit.slope)
    assert boot.r_squared.estimate == pytest.approx(fit.r_squared)
    assert boot.determination.estimate == pytest.approx(agreement.determination(rv, ic))
    assert boot.concordance.estimate == pytest.approx(agreement.concordance(rv, ic))


def test_a_seed_gives_the_same_interval_and_another_gives_another() -> None:
    first, again, other = (
        bootstrap.bootstrap_agreement(*cardiac(), seed=s, replicates=200).bias for s in (1, 1, 2)
    )
    assert first == again != other


def test_scans_of_one_subject_do_not_shorten_the_interval() -> None:
    rv, ic, subjects = cardiac()
    once = bootstrap.bootstrap_agreement(rv, ic, subjects).bias
    thrice = bootstrap.bootstrap_agreement(
        *(np.tile(v, 3) for v in (rv, ic)), np.tile(subjects, 3)
    ).bias
    assert thrice.percentile == pytest.approx(once.percentile)
    assert np.ptp(once.bca) > 1.5 * np.ptp(agreement.bland_altman(rv, ic).bias_ci)


def test_it_covers_the_bias_of_clustered_scans() -> None:
    rng = np.random.default_rng(0)
    subjects, covered = np.repeat(np.arange(20), 5), []
    for _ in range(200):
        d = rng.normal(size=20)[subjects] + 0.3 * rng.normal(size=100)
        low, high = bootstrap.cluster_bootstrap(mean, d[:, None], subjects, replicates=400).bca
        covered.append(low <= 0 <= high)
    # 0.93 is usual at 20 subjects; three standard errors of 200 draws are 0.05
    assert 0.88 < np.mean(covered) < 0.98


def test_undefined_replicates_are_counted_and_left_out() -> None:
    x, subjects = np.array([1.0, 1.0, 2.0, 2.0]), list("aabb")
    boot = bootstrap.bootstrap_agreement(x, x, subjects, replicates=400).concordance
    # each of two subjects is drawn twice in a quarter of the replicates
    assert boot.undefined == pytest.approx(200, abs=40)
    assert boot.bca == pytest.approx((1, 1))


def test_constant_values_give_a_point_or_nothing_without_a_warning() -> None:
    # 7 such values have means that round: a variance of 1e-17 is none
    boot = bootstrap.bootstrap_agreement(np.full(7, 0.7), np.full(7, 0.3), list("aabbccc"))
    assert boot.bias.bca == pytest.approx((0.4, 0.4))
    assert boot.sd.bca == pytest.approx((0, 0), abs=1e-6)
    assert np.isnan([boot.slope.estimate, *boot.r_squared.bca]).all()
    assert boot.slope.undefined == boot.slope.replicates


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="two subjects"):
        bootstrap.bootstrap_agreement([1, 2], [1, 2], ["a", "a"])
    with pytest.raises(ValueError, match="NaN"):
        bootstrap.bootstrap_agreement([1, np.nan], [1, 2], ["a", "b"])
    with pytest.raises(ValueError, match="replicates"):
        bootstrap.cluster_bootstrap(mean, np.ones((2, 1)), [1, 2], replicates=1)
