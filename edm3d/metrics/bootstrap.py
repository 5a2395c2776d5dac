"""Intervals that resample subjects, so that scans of one subject are not taken as independent.

Shape key: `n` scans of `k` subjects, `q` terms, `b` replicates. Degenerate input: the rule of the
package. With fewer than about ten subjects every such interval is too short; say how many there
were.

Statistics of agreement are functions of means (of x, y, x², ...). A subject drawn twice counts
twice, so all replicates are one product of draws `[b, k]` and sums by subject `[k, q]`.

References:
  Efron 1987, J Am Stat Assoc 82:171 (bias-corrected and accelerated intervals, BCa).
  Field & Welsh 2007, J R Stat Soc B 69:369 (the cluster bootstrap).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from edm3d.metrics.pairs import NO_INTERVAL, Interval, pair, subject_indices, tails
from edm3d.metrics.repeated import LIMITS_Z

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Bootstrap:
    """An estimate with its intervals; `undefined` replicates (constant values) are left out."""

    estimate: float
    bca: Interval
    percentile: Interval
    standard_error: float
    replicates: int
    undefined: int


@dataclass(frozen=True)
class AgreementBootstrap:
    """Agreement of `measured` with `reference`, each with intervals over subjects."""

    subjects: int
    bias: Bootstrap
    sd: Bootstrap
    lower: Bootstrap
    upper: Bootstrap
    slope: Bootstrap
    r_squared: Bootstrap
    determination: Bootstrap
    concordance: Bootstrap


def cluster_bootstrap(
    statistic: Statistic,
    terms: ArrayLike,
    subjects: ArrayLike,
    *,
    replicates: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Bootstrap:
    """Bootstrap of a function of the scans' means, over `subjects` `[n]` (two or more).

    `terms` `[n, q]` are averaged over scans; `statistic(means, n)` gets `means` `[b, q]` and the
    number of scans `n` `[b]` of each replicate, and returns `[b]`, NaN where it is undefined. The
    same seed draws the same subjects, whatever the statistic.
    """
    values = np.asarray(terms, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"terms have shape {values.shape}; need finite [n, q]")
    if replicates < 2:
        raise ValueError(f"replicates is {replicates}; it must be 2 or more")
    index, k = subject_indices(subjects, len(values))
    sums = np.zeros((k, values.shape[1] + 1))
    np.add.at(sums, index, np.column_stack([values, np.ones(len(values))]))

    def of(draws: np.ndarray) -> np.ndarray:
        totals = draws @ sums
        return np.asarray(statistic(totals[:, :-1] / totals[:, -1:], totals[:, -1]), np.float64)

    draws = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=replicates)
    return _summary(of(np.ones((1, k)))[0], of(draws), of(1 - np.eye(k)), confidence)


def bootstrap_agreement(
    measured: ArrayLike,
    reference: ArrayLike,
    subjects: ArrayLike,
    *,
    replicates: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> AgreementBootstrap:
    """Bias, SD, limits, slope, R², 1 - SSE/SST and concordance, resampling subjects `[n]`."""
    x, y = pair(reference, measured, at_least=2)
    # One shift for both keeps the bias and saves the digits of the squares.
    x, y = x - y.mean(), y - y.mean()
    terms = np.column_stack([x, y, x * x, y * y, x * y])

    def boot(statistic: Statistic) -> Bootstrap:
        return cluster_bootstrap(
            statistic, terms, subjects, replicates=replicates, seed=seed, confidence=confidence
        )

    return AgreementBootstrap(
        subjects=subject_indices(subjects, x.size)[1],
        bias=boot(lambda m, n: m[:, 1] - m[:, 0]),
        sd=boot(_sd),
        lower=boot(lambda m, n: m[:, 1] - m[:, 0] - LIMITS_Z * _sd(m, n)),
        upper=boot(lambda m, n: m[:, 1] - m[:, 0] + LIMITS_Z * _sd(m, n)),
        slope=boot(lambda m, n: _over(_covariance(m), _variance(m, 0))),
        r_squared=boot(lambda m, n: _over(_covariance(m) ** 2, _variance(m, 0) * _variance(m, 1))),
        determination=boot(lambda m, n: 1 - _over(_squared_error(m), _variance(m, 0))),
        concordance=boot(_concordance),
    )


def _squared_error(m: np.ndarray) -> np.ndarray:
    """Mean of (measured - reference)², from the means of (x, y, x², y², xy)."""
    return np.maximum(m[:, 2] + m[:, 3] - 2 * m[:, 4], 0)


def _sd(m: np.ndarray, n: np.ndarray) -> np.ndarray:
    variance = np.maximum(_squared_error(m) - (m[:, 1] - m[:, 0]) ** 2, 0)
    return np.sqrt(_over(n * variance, n - 1))


def _variance(m: np.ndarray, i: int) -> np.ndarray:
    """1/n variance of x (0) or y (1); exactly 0 where rounding alone is left of it."""
    squares = m[:, 2 + i]
    variance = squares - m[:, i] ** 2
    return np.where(variance > 1e-12 * squares, variance, 0)


def _covariance(m: np.ndarray) -> np.ndarray:
    return m[:, 4] - m[:, 0] * m[:, 1]


def _concordance(m: np.ndarray, n: np.ndarray) -> np.ndarray:
    apart = (m[:, 1] - m[:, 0]) ** 2
    return _over(2 * _covariance(m), _variance(m, 0) + _variance(m, 1) + apart)


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b != 0)


def _summary(
    estimate: float, drawn: np.ndarray, left_out: np.ndarray, confidence: float
) -> Bootstrap:
    kept, p = drawn[np.isfinite(drawn)], np.array(tails(confidence))
    undefined = drawn.size - kept.size
    if np.isnan(estimate) or kept.size < 2:
        nan = float("nan")
        return Bootstrap(float(estimate), NO_INTERVAL, NO_INTERVAL, nan, drawn.size, undefined)
    return Bootstrap(
        estimate=float(estimate),
        bca=_quantiles(kept, _bca_levels(estimate, kept, left_out, p)),
        percentile=_quantiles(kept, p),
        standard_error=float(kept.std(ddof=1)),
        replicates=drawn.size,
        undefined=undefined,
    )


def _bca_levels(
    estimate: float, kept: np.ndarray, left_out: np.ndarray, p: np.ndarray
) -> np.ndarray:
    """The quantiles of the replicates at which a BCa interval ends (Efron 1987)."""
    below = np.mean(kept < estimate) + np.mean(kept == estimate) / 2
    z0 = special.ndtri(np.clip(below, 0.5 / kept.size, 1 - 0.5 / kept.size))
    defined = left_out[np.isfinite(left_out)]
    pull = defined.mean() - defined if defined.size else np.zeros(1)
    squares = float(np.sum(pull**2))
    acceleration = float(np.sum(pull**3)) / (6 * squares**1.5) if squares else 0.0
    z = z0 + special.ndtri(p)
    return special.ndtr(z0 + z / (1 - acceleration * z))


def _quantiles(values: np.ndarray, levels: np.ndarray) -> Interval:
    low, high = np.quantile(values, levels)
    return float(low), float(high)
