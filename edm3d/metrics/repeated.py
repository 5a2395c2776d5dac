"""Limits of agreement when subjects were measured several times.

Shape key: `[n]` measurements of k subjects, m_i of subject i. Degenerate input: the rule of the
package; also `ValueError` where no subject was measured twice.

Two designs. The true value varies between a subject's scans (another PEEP): each scan is a pair,
and only differences are replicated. Or it is constant (the same breath, measured or generated
again): the scans of either method are replicates of one value.

References:
  Bland & Altman 1999, Stat Methods Med Res 8:135, section 5 (constant truth).
  Bland & Altman 2007, J Biopharm Stat 17:571 (both designs).
  Zou 2013, Stat Methods Med Res 22:630 (intervals by the recovery of variances, MOVER).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from edm3d.metrics.pairs import Interval, around, pair, subject_indices, tails

LIMITS_Z = 1.96


@dataclass(frozen=True)
class RepeatedLimits:
    """Limits of agreement when subjects were measured several times; SDs in the data's unit.

    `bias` gives every scan the same weight and is the centre of the limits. `bias_of_means` gives
    every subject the same weight; its interval counts subjects, not scans.
    """

    n: int
    subjects: int
    bias: float
    sd_between: float
    sd_within: float
    sd: float
    lower: float
    upper: float
    bias_of_means: float
    bias_of_means_ci: Interval


@dataclass(frozen=True)
class MoverLimits:
    """Limits of agreement about the mean of the subjects' means, with intervals by MOVER."""

    n: int
    subjects: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_ci: Interval
    lower_ci: Interval
    upper_ci: Interval


def repeated_measures_limits(
    measured: ArrayLike,
    reference: ArrayLike,
    subjects: ArrayLike,
    *,
    multiplier: float = LIMITS_Z,
    confidence: float = 0.95,
) -> RepeatedLimits:
    """Limits of agreement for several scans per subject whose true value varies; arrays `[n]`.

    One-way analysis of variance of the differences by subject: the variance of a single difference
    is the between-subject plus the within-subject component (Bland & Altman 2007, section 3).
    """
    x, y, index, m = _grouped(measured, reference, subjects)
    d, k = x - y, m.size
    within, means = _within(d, index, m), _means(d, index, m)
    among = float(m @ (means - d.mean()) ** 2) / (k - 1)
    m0 = (d.size**2 - float(m @ m)) / ((k - 1) * d.size)
    between = max(0.0, (among - within) / m0)
    return _limits(d, means, (between, within, between + within), multiplier, confidence)


def constant_truth_limits(
    measured: ArrayLike,
    reference: ArrayLike,
    subjects: ArrayLike,
    *,
    multiplier: float = LIMITS_Z,
    confidence: float = 0.95,
) -> RepeatedLimits:
    """Limits of agreement for replicates of one true value per subject; arrays `[n]`.

    The variance of the subjects' mean differences lacks a share 1 - 1/m of either method's
    within-subject variance, which is added; 1/m is its mean over subjects (Bland & Altman 1999,
    sections 5.1-5.2). A reference that was measured once is repeated for every replicate.
    """
    x, y, index, m = _grouped(measured, reference, subjects)
    means, inverse = _means(x - y, index, m), float(np.mean(1 / m))
    within = _within(x, index, m) + _within(y, index, m)
    of_means = float(means.var(ddof=1))
    parts = max(0.0, of_means - inverse * within), within, of_means + (1 - inverse) * within
    return _limits(x - y, means, parts, multiplier, confidence)


def mover_varying_truth(
    measured: ArrayLike,
    reference: ArrayLike,
    subjects: ArrayLike,
    *,
    multiplier: float = LIMITS_Z,
    confidence: float = 0.95,
) -> MoverLimits:
    """Limits with intervals where the true value varies between a subject's scans (Zou 2013)."""
    x, y, index, m = _grouped(measured, reference, subjects)
    within = [_within(x - y, index, m)]
    return _mover(_means(x - y, index, m), within, m, multiplier, confidence)


def mover_constant_truth(
    measured: ArrayLike,
    reference: ArrayLike,
    subjects: ArrayLike,
    *,
    multiplier: float = LIMITS_Z,
    confidence: float = 0.95,
) -> MoverLimits:
    """Limits with intervals for replicates of one true value per subject (Zou 2013)."""
    x, y, index, m = _grouped(measured, reference, subjects)
    within = [_within(x, index, m), _within(y, index, m)]
    return _mover(_means(x - y, index, m), within, m, multiplier, confidence)


def _grouped(
    measured: ArrayLike, reference: ArrayLike, subjects: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both methods `[n]`, the subject of each scan `[n]`, and the scans of each subject `[k]`."""
    x, y = pair(measured, reference, at_least=3)
    index, k = subject_indices(subjects, x.size)
    if k == x.size:
        raise ValueError("no subject was measured twice; use bland_altman")
    return x, y, index, np.bincount(index)


def _means(values: np.ndarray, index: np.ndarray, m: np.ndarray) -> np.ndarray:
    return np.bincount(index, values) / m


def _within(values: np.ndarray, index: np.ndarray, m: np.ndarray) -> float:
    """Mean square within subjects, with n - k degrees of freedom."""
    residual = values - _means(values, index, m)[index]
    return float(residual @ residual) / (values.size - m.size)


def _limits(
    d: np.ndarray,
    means: np.ndarray,
    variances: tuple[float, float, float],
    multiplier: float,
    confidence: float,
) -> RepeatedLimits:
    """Limits from the (between, within, total) variance of a single difference."""
    between, within, sd = (float(np.sqrt(v)) for v in variances)
    bias = float(d.mean())
    return RepeatedLimits(
        n=d.size,
        subjects=means.size,
        bias=bias,
        sd_between=between,
        sd_within=within,
        sd=sd,
        lower=bias - multiplier * sd,
        upper=bias + multiplier * sd,
        bias_of_means=float(means.mean()),
        bias_of_means_ci=_interval_of_mean(means, confidence),
    )


def _interval_of_mean(means: np.ndarray, confidence: float) -> Interval:
    k = means.size
    half = stats.t.ppf(tails(confidence)[1], k - 1) * means.std(ddof=1) / np.sqrt(k)
    return around(float(means.mean()), float(half))


def _mover(
    means: np.ndarray,
    within: list[float],
    m: np.ndarray,
    multiplier: float,
    confidence: float,
) -> MoverLimits:
    """Each variance's chi-square interval is combined into one of their sum, then of a limit."""
    n, k = int(m.sum()), means.size
    bias, of_means = float(means.mean()), float(means.var(ddof=1))
    share = 1 - float(np.mean(1 / m))
    variances = np.array([of_means, *(share * w for w in within)])
    df = np.array([k - 1, *(n - k for _ in within)])
    low, high = tails(confidence)
    total = float(variances.sum())
    below = float(np.linalg.norm(variances * (1 - df / stats.chi2.ppf(high, df))))
    above = float(np.linalg.norm(variances * (df / stats.chi2.ppf(low, df) - 1)))
    sd, least, most = np.sqrt([total, max(total - below, 0.0), total + above])
    of_bias = stats.norm.ppf(high) * np.sqrt(of_means / k)
    inward = float(np.hypot(of_bias, multiplier * (sd - least)))
    outward = float(np.hypot(of_bias, multiplier * (most - sd)))
    lower, upper = around(bias, multiplier * sd)
    return MoverLimits(
        n=n,
        subjects=k,
        bias=bias,
        sd=float(sd),
        lower=lower,
        upper=upper,
        bias_ci=_interval_of_mean(means, confidence),
        lower_ci=(lower - outward, lower + inward),
        upper_ci=(upper - inward, upper + outward),
    )
