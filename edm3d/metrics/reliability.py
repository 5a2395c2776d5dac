"""One coefficient of agreement: Lin's concordance and the intraclass correlations.

Shape key: `[n]` measurements of either method, or `[n, k]` ratings of n targets by k raters.
Degenerate input: the rule of the package. All of them depend on the range of the values; read them
beside the limits of agreement.

References:
  Lin 1989, Biometrics 45:255; the variance of z as corrected in Biometrics 56:324 (2000).
  Shrout & Fleiss 1979, Psychol Bull 86:420 (forms (2,1) and (3,1), and their intervals).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from edm3d.metrics.pairs import NO_INTERVAL, Interval, pair, tails
from edm3d.metrics.regression import pearson_r, z_interval


@dataclass(frozen=True)
class Concordance:
    """Lin's coefficient = r * `accuracy`; `location` and `scale` shift are what accuracy loses."""

    n: int
    coefficient: float
    interval: Interval
    r: float
    accuracy: float
    location_shift: float
    scale_shift: float


@dataclass(frozen=True)
class Intraclass:
    """Intraclass correlations of a single rating, and the mean squares they come from.

    `agreement` is ICC(2,1): raters are a sample, their bias counts. `consistency` is ICC(3,1):
    these raters alone, their bias does not.
    """

    n: int
    raters: int
    agreement: float
    agreement_ci: Interval
    consistency: float
    consistency_ci: Interval
    between_targets_ms: float
    between_raters_ms: float
    error_ms: float


def concordance(x: ArrayLike, y: ArrayLike) -> float:
    """Lin's concordance correlation coefficient with 1/n moments; NaN where all values are one."""
    a, b = pair(x, y, at_least=2)
    if np.ptp(np.concatenate([a, b])) == 0:
        return float("nan")
    shift = a.mean() - b.mean()
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    return float(2 * covariance / (a.var() + b.var() + shift**2))


def lin_concordance(x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> Concordance:
    """Lin's coefficient with its z interval; n >= 3.

    Where one method is constant the coefficient is 0 and all else NaN; where r is 0 the interval
    is NaN, for the variance divides by r.
    """
    a, b = pair(x, y, at_least=3)
    rho, r = concordance(a, b), pearson_r(a, b)
    if np.isnan(r):
        return Concordance(a.size, rho, NO_INTERVAL, r, np.nan, np.nan, np.nan)
    sx, sy = float(a.std()), float(b.std())
    u, v = float((a.mean() - b.mean()) / np.sqrt(sx * sy)), sx / sy
    interval = NO_INTERVAL
    if r != 0:
        interval = z_interval(rho, _lin_se_z(rho, r, u, a.size), confidence=confidence)
    accuracy = 2 / (v + 1 / v + u**2)
    return Concordance(a.size, rho, interval, r, accuracy, location_shift=u, scale_shift=v)


def intraclass(ratings: ArrayLike, *, confidence: float = 0.95) -> Intraclass:
    """ICC(2,1) and ICC(3,1) of `ratings` `[n, k]`, n >= 2 targets by k >= 2 raters.

    NaN where all ratings are equal. Raises `ValueError` on other shapes, NaN or infinity.
    """
    x = np.asarray(ratings, np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"ratings have shape {x.shape}; need [n, k] of two or more by two or more")
    if not np.isfinite(x).all():
        raise ValueError("ratings hold NaN or infinity")
    (n, k), ms = x.shape, _mean_squares(x)
    if np.ptp(x) == 0:
        return Intraclass(n, k, np.nan, NO_INTERVAL, np.nan, NO_INTERVAL, *ms)
    b, j, e = ms
    agreement = _ratio(b - e, b + (k - 1) * e + k * (j - e) / n)
    return Intraclass(
        n=n,
        raters=k,
        agreement=agreement,
        agreement_ci=_agreement_interval(n, k, ms, agreement, confidence),
        consistency=_ratio(b - e, b + (k - 1) * e),
        consistency_ci=_consistency_interval(n, k, ms, confidence),
        between_targets_ms=b,
        between_raters_ms=j,
        error_ms=e,
    )


def _lin_se_z(rho: float, r: float, u: float, n: int) -> float:
    """Standard error of arctanh(rho), with Lin's 1/(n - 2)."""
    if abs(rho) == 1:
        return 0.0
    spread = (1 - r**2) * rho**2 * (1 - rho**2) / r**2
    shift = 2 * rho**3 * (1 - rho) * u**2 / r - rho**4 * u**4 / (2 * r**2)
    return float(np.sqrt(max(spread + shift, 0.0) / (n - 2)) / (1 - rho**2))


def _mean_squares(x: np.ndarray) -> tuple[float, float, float]:
    """Mean squares between targets (BMS), between raters (JMS) and of the error (EMS)."""
    n, k = x.shape
    targets, raters = x.mean(1, keepdims=True), x.mean(0, keepdims=True)
    error = x - targets - raters + x.mean()
    b = k * float(np.sum((targets - x.mean()) ** 2)) / (n - 1)
    j = n * float(np.sum((raters - x.mean()) ** 2)) / (k - 1)
    return b, j, float(np.sum(error**2)) / ((n - 1) * (k - 1))


def _agreement_interval(
    n: int, k: int, ms: tuple[float, float, float], rho: float, confidence: float
) -> Interval:
    """Interval of ICC(2,1) with Satterthwaite's degrees of freedom; NaN without error."""
    b, j, e = ms
    if e == 0 or np.isnan(rho):
        return NO_INTERVAL
    p = tails(confidence)[1]
    # k rho F_J and n(1 + (k - 1) rho) - k rho of the paper, whose F_J is JMS/EMS
    raters, rest = k * rho * j / e, n * (1 + (k - 1) * rho) - k * rho
    df = (k - 1) * (n - 1) * (raters + rest) ** 2 / ((n - 1) * raters**2 + rest**2)
    above, below = stats.f.ppf(p, n - 1, df), stats.f.ppf(p, df, n - 1)
    other = k * j + (k * n - k - n) * e
    low = n * (b - above * e) / (above * other + n * b)
    return float(low), float(n * (below * b - e) / (other + n * below * b))


def _consistency_interval(
    n: int, k: int, ms: tuple[float, float, float], confidence: float
) -> Interval:
    """Interval of ICC(3,1) from the F distribution; NaN without error."""
    b, _, e = ms
    if e == 0:
        return NO_INTERVAL
    p, df = tails(confidence)[1], (n - 1) * (k - 1)
    low = b / e / stats.f.ppf(p, n - 1, df)
    high = b / e * stats.f.ppf(p, df, n - 1)
    return float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1))


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")
