"""How well two measurements of the same quantity agree: Bland-Altman, regression, correlation, CCC.

Shape key: `[n]` measurements, one per scan. Every function takes plain arrays and raises
`ValueError` on empty input, unequal lengths, NaN or infinity.

References:
  Bland & Altman 1986, Lancet 327:307 (limits of agreement and their approximate intervals).
  Bland & Altman 1999, Stat Methods Med Res 8:135.
  Bland & Altman 2007, J Biopharm Stat 17:571 (several measurements per subject).
  Lin 1989, Biometrics 45:255 (concordance correlation coefficient).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LIMITS_Z = 1.96

Interval = tuple[float, float]


@dataclass(frozen=True)
class BlandAltman:
    """Bias, SD and limits of agreement of `measured - reference`, with confidence intervals."""

    n: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_ci: Interval
    lower_ci: Interval
    upper_ci: Interval


@dataclass(frozen=True)
class RepeatedLimits:
    """Limits of agreement when subjects were measured several times; SDs in the data's unit.

    `bias_of_means` gives every subject the same weight; its interval counts subjects, not scans.
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
class Regression:
    """Least squares of `measured` on `reference`; NaN where a constant leaves no answer."""

    n: int
    slope: float
    intercept: float
    r: float
    r_squared: float


def bland_altman(
    measured: ArrayLike,
    reference: ArrayLike,
    *,
    multiplier: float = LIMITS_Z,
    confidence: float = 0.95,
) -> BlandAltman:
    """Bland-Altman analysis of `measured - reference`, each `[n]` with n >= 2.

    Limits are bias ± `multiplier` SD (SD over n - 1). Their standard error is approximated as
    SD sqrt((1 + multiplier²/2) / n): sqrt(3/n) SD for the 2 of 1986, 1.71 SD/sqrt(n) for the 1.96
    of 1999. It treats the n scans as independent; see `repeated_measures_limits`.
    """
    d = _difference(measured, reference, at_least=2)
    n, bias, sd = d.size, float(d.mean()), float(d.std(ddof=1))
    t = float(stats.t.ppf(0.5 + confidence / 2, n - 1))
    lower, upper = bias - multiplier * sd, bias + multiplier * sd
    half_bias = t * sd / np.sqrt(n)
    half_limit = half_bias * np.sqrt(1 + multiplier**2 / 2)
    return BlandAltman(
        n=n,
        bias=bias,
        sd=sd,
        lower=lower,
        upper=upper,
        bias_ci=_around(bias, half_bias),
        lower_ci=_around(lower, half_limit),
        upper_ci=_around(upper, half_limit),
    )


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
    Needs at least two subjects and one subject measured twice, else `ValueError`.
    """
    d = _difference(measured, reference, at_least=3)
    groups = _by_subject(d, np.asarray(subjects))
    m = np.array([g.size for g in groups])
    means = np.array([g.mean() for g in groups])
    within, between = _variance_components(d, groups)
    sd = float(np.sqrt(within + between))
    k, bias, bias_of_means = len(groups), float(d.mean()), float(means.mean())
    half = stats.t.ppf(0.5 + confidence / 2, k - 1) * means.std(ddof=1) / np.sqrt(k)
    return RepeatedLimits(
        n=int(m.sum()),
        subjects=k,
        bias=bias,
        sd_between=float(np.sqrt(between)),
        sd_within=float(np.sqrt(within)),
        sd=sd,
        lower=bias - multiplier * sd,
        upper=bias + multiplier * sd,
        bias_of_means=bias_of_means,
        bias_of_means_ci=_around(bias_of_means, float(half)),
    )


def linear_regression(reference: ArrayLike, measured: ArrayLike) -> Regression:
    """Least squares `measured = slope * reference + intercept` and Pearson's r; R² is r²."""
    x, y = _pair(reference, measured, at_least=2)
    if np.ptp(x) == 0:
        return Regression(x.size, np.nan, np.nan, np.nan, np.nan)
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    intercept = float(y.mean() - slope * x.mean())
    r = pearson_r(x, y)
    return Regression(x.size, slope, intercept, r, r**2)


def pearson_r(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of two `[n]`; NaN (undefined) where one of them is constant."""
    a, b = _pair(x, y, at_least=2)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def concordance(x: ArrayLike, y: ArrayLike) -> float:
    """Lin's concordance correlation coefficient with 1/n moments; NaN where all values are one."""
    a, b = _pair(x, y, at_least=2)
    if np.ptp(np.concatenate([a, b])) == 0:
        return float("nan")
    shift = a.mean() - b.mean()
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    return float(2 * covariance / (a.var() + b.var() + shift**2))


def determination(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Coefficient of determination 1 - SSE/SST of `[n]` predictions; NaN for a constant reference.

    Unlike r² it is lowered by a wrong scale, offset or sign: 1 is perfect, 0 no better than the
    mean of the references, below 0 worse than it.
    """
    x, y = _pair(predicted, reference, at_least=2)
    if np.ptp(y) == 0:
        return float("nan")
    return float(1 - np.sum((x - y) ** 2) / np.sum((y - y.mean()) ** 2))


def mean_absolute_error(measured: ArrayLike, reference: ArrayLike) -> float:
    """Mean of |measured - reference| over `[n]`, in the data's unit."""
    return float(np.abs(_difference(measured, reference, at_least=1)).mean())


def _variance_components(d: np.ndarray, groups: list[np.ndarray]) -> tuple[float, float]:
    """(within, between) variance of differences by subject; the latter is cut at 0."""
    n, k = d.size, len(groups)
    m = np.array([g.size for g in groups])
    within = sum(float(np.sum((g - g.mean()) ** 2)) for g in groups) / (n - k)
    spread = sum(g.size * float(g.mean() - d.mean()) ** 2 for g in groups) / (k - 1)
    m0 = (n**2 - np.sum(m**2)) / ((k - 1) * n)
    return within, max(0.0, float((spread - within) / m0))


def _by_subject(d: np.ndarray, subjects: np.ndarray) -> list[np.ndarray]:
    if subjects.shape != d.shape:
        raise ValueError(f"subjects have shape {subjects.shape}, differences {d.shape}")
    groups = [d[subjects == s] for s in np.unique(subjects)]
    if len(groups) < 2:
        raise ValueError("repeated-measures limits need at least two subjects")
    if len(groups) == d.size:
        raise ValueError("no subject was measured twice; use bland_altman")
    return groups


def _difference(measured: ArrayLike, reference: ArrayLike, *, at_least: int) -> np.ndarray:
    a, b = _pair(measured, reference, at_least=at_least)
    return a - b


def _pair(x: ArrayLike, y: ArrayLike, *, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"need two arrays [n] of one length, got shapes {a.shape} and {b.shape}")
    if a.size < at_least:
        raise ValueError(f"need at least {at_least} measurements, got {a.size}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("measurements hold NaN or infinity")
    return a, b


def _around(centre: float, half: float) -> Interval:
    return float(centre - half), float(centre + half)
