"""Least squares of one measurement on another, and Pearson's correlation, with intervals.

Shape key: `[n]` measurements, one per scan, taken as independent; for scans of the same subjects
see `bootstrap`. Degenerate input: the rule of the package.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from edm3d.metrics.pairs import NO_INTERVAL, Interval, around, pair, tails


@dataclass(frozen=True)
class Regression:
    """Least squares of `measured` on `reference`; NaN where a constant leaves no answer.

    Intervals of `confidence`, from Student's t with n - 2 degrees of freedom (NaN at n = 2) and,
    for r, from Fisher's z (NaN below n = 4). `slope_p` tests a slope of 0.
    """

    n: int
    slope: float
    intercept: float
    r: float
    r_squared: float
    slope_ci: Interval = NO_INTERVAL
    intercept_ci: Interval = NO_INTERVAL
    r_ci: Interval = NO_INTERVAL
    slope_p: float = float("nan")
    residual_sd: float = float("nan")
    reference_mean: float = float("nan")
    reference_squares: float = float("nan")
    confidence: float = 0.95


@dataclass(frozen=True)
class Prediction:
    """The line at `[m]` references with the interval of the mean and that of one new scan."""

    value: np.ndarray
    mean_ci: tuple[np.ndarray, np.ndarray]
    new_ci: tuple[np.ndarray, np.ndarray]


def linear_regression(
    reference: ArrayLike, measured: ArrayLike, *, confidence: float = 0.95
) -> Regression:
    """Least squares `measured = slope * reference + intercept` and Pearson's r; R² is r²."""
    x, y = pair(reference, measured, at_least=2)
    _, p = tails(confidence)
    if np.ptp(x) == 0:
        return Regression(x.size, np.nan, np.nan, np.nan, np.nan, confidence=confidence)
    dx, dy = x - x.mean(), y - y.mean()
    squares = float(dx @ dx)
    slope = float(dx @ dy) / squares
    intercept = float(y.mean() - slope * x.mean())
    r, df = pearson_r(x, y), x.size - 2
    sd = float(np.sqrt(np.sum((dy - slope * dx) ** 2) / df)) if df else float("nan")
    slope_se = sd / np.sqrt(squares)
    intercept_se = sd * np.sqrt(1 / x.size + x.mean() ** 2 / squares)
    t = float(stats.t.ppf(p, df)) if df else float("nan")
    return Regression(
        n=x.size,
        slope=slope,
        intercept=intercept,
        r=r,
        r_squared=r**2,
        slope_ci=around(slope, t * slope_se),
        intercept_ci=around(intercept, t * intercept_se),
        r_ci=fisher_interval(r, x.size, confidence=confidence),
        slope_p=_two_sided_p(slope, slope_se, df),
        residual_sd=sd,
        reference_mean=float(x.mean()),
        reference_squares=squares,
        confidence=confidence,
    )


def predict(fit: Regression, reference: ArrayLike) -> Prediction:
    """The fitted line at `reference` `[m]`, with the fit's confidence; NaN where the fit has none.

    One new scan lies in `new_ci`; the mean of many at the same reference lies in `mean_ci`.
    """
    x = np.asarray(reference, np.float64)
    value = fit.slope * x + fit.intercept
    _, p = tails(fit.confidence)
    t = float(stats.t.ppf(p, fit.n - 2)) if fit.n > 2 else float("nan")
    leverage = 1 / fit.n + (x - fit.reference_mean) ** 2 / fit.reference_squares
    mean, new = (t * fit.residual_sd * np.sqrt(v) for v in (leverage, 1 + leverage))
    return Prediction(value, (value - mean, value + mean), (value - new, value + new))


def pearson_r(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of two `[n]`; NaN (undefined) where one of them is constant."""
    a, b = pair(x, y, at_least=2)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def fisher_interval(r: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Interval of a correlation `r` of `n` pairs by Fisher's z; NaN below n = 4."""
    if n < 4 or np.isnan(r):
        return NO_INTERVAL
    return z_interval(r, 1 / np.sqrt(n - 3), confidence=confidence)


def z_interval(r: float, se_z: float, *, confidence: float) -> Interval:
    """Interval of a coefficient in [-1, 1] whose arctanh has standard error `se_z`."""
    if abs(r) == 1:
        return r, r
    _, p = tails(confidence)
    low, high = np.tanh(np.arctanh(r) + np.array([-1, 1]) * stats.norm.ppf(p) * se_z)
    return float(low), float(high)


def _two_sided_p(value: float, se: float, df: int) -> float:
    """P of |t| at a true value of 0; NaN without a degree of freedom or without any spread."""
    if df == 0 or (se == 0 and value == 0):
        return float("nan")
    return 0.0 if se == 0 else float(2 * stats.t.sf(abs(value / se), df))
