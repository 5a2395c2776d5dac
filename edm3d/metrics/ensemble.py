"""Are K samples of one case spread as the truth is? Scores and calibration of an ensemble.

Shape key: `samples [k, ...]`, k members first, and `truth [...]`: scalars by case `[n]`, or the
voxels of a mask. Degenerate input: the rule of the package.

Scalars (lung volume, aeration) are computed of each member and averaged, never of the mean image.
Neighbouring voxels and scans of one subject are dependent: thin voxels to 8 mm or more, and take
the p-value of a rank histogram over scans as too small.

References:
  Gneiting & Raftery 2007, J Am Stat Assoc 102:359 (CRPS); Ferro 2014, Q J R Meteorol Soc 140:1917
  (the fair CRPS).
  Fortin et al. 2014, J Hydrometeorol 15:1708 (spread and skill).
  Hamill 2001, Mon Weather Rev 129:550 (rank histograms).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class SpreadSkill:
    """Spread against skill over `n` truths; `ratio` 1 is calibrated, below 1 overconfident.

    `spread` is sqrt((K + 1)/K * mean variance), `skill` the RMSE of the ensemble's mean. For a true
    posterior sampler one member's mean square error is `expected_gain` = 2/(1 + 1/K) times that of
    the mean of K; `gain` is what was seen. Both ratios are NaN where the mean makes no error.
    """

    n: int
    members: int
    spread: float
    skill: float
    ratio: float
    gain: float
    expected_gain: float


@dataclass(frozen=True)
class RankHistogram:
    """How often the truth had each of the K + 1 ranks, and the chi-square test of a flat one."""

    counts: tuple[int, ...]
    chi_square: float
    p: float


@dataclass(frozen=True)
class Coverage:
    """Share of `n` truths in the central interval of probability `nominal`.

    K members can span no more than (K - 1)/(K + 1); `expected` is that where `nominal` is greater.
    """

    n: int
    members: int
    nominal: float
    expected: float
    observed: float


def crps(samples: ArrayLike, truth: ArrayLike, *, fair: bool = True) -> np.ndarray:
    """Continuous ranked probability score of each truth, `[...]`, in the truth's unit; 0 is best.

    mean |x_k - y| less half the mean distance of two members. `fair` takes that over K (K - 1)
    pairs, so that the expected score does not depend on K (needs K >= 2); else over K².
    """
    x, y = _ensemble(samples, truth, at_least=2 if fair else 1)
    k = len(x)
    # The i-th of K sorted members is counted 2 i - K + 1 times in the sum of all distances.
    weights = (2 * np.arange(k) - k + 1) / (k * (k - 1) if fair else k * k)
    return np.abs(x - y).mean(0) - np.tensordot(weights, np.sort(x, axis=0), axes=1)


def spread_skill(samples: ArrayLike, truth: ArrayLike) -> SpreadSkill:
    """Spread, skill and the gain of averaging, over all of `truth`; K >= 2."""
    x, y = _ensemble(samples, truth, at_least=2)
    k = len(x)
    mean_error = float(np.mean((x.mean(0) - y) ** 2))
    member_error = float(np.mean((x - y) ** 2))
    spread, skill = np.sqrt((k + 1) / k * x.var(0, ddof=1).mean()), np.sqrt(mean_error)
    return SpreadSkill(
        n=y.size,
        members=k,
        spread=float(spread),
        skill=float(skill),
        ratio=float(spread / skill) if mean_error else float("nan"),
        gain=member_error / mean_error if mean_error else float("nan"),
        expected_gain=2 / (1 + 1 / k),
    )


def rank_histogram(samples: ArrayLike, truth: ArrayLike, *, seed: int = 0) -> RankHistogram:
    """Ranks of the truth among the members, ties drawn at random from `seed`.

    A hump in the middle is an ensemble too wide, high ends one too narrow, a slope a bias.
    """
    x, y = _ensemble(samples, truth, at_least=1)
    below, equal = (x < y).sum(0), (x == y).sum(0)
    rank = below + np.random.default_rng(seed).integers(0, equal + 1)
    counts = np.bincount(rank.ravel(), minlength=len(x) + 1)
    found = stats.chisquare(counts)
    return RankHistogram(tuple(counts.tolist()), float(found.statistic), float(found.pvalue))


def coverage(samples: ArrayLike, truth: ArrayLike, nominal: float) -> Coverage:
    """How often the truth lies in the members' central interval of probability `nominal`.

    Its ends are quantiles at p (K + 1) of the sorted members, linear between them: a truth that is
    exchangeable with the members lies below the i-th with probability i/(K + 1).
    """
    x, y = _ensemble(samples, truth, at_least=2)
    if not 0 < nominal < 1:
        raise ValueError(f"nominal is {nominal}; it must lie between 0 and 1")
    k = len(x)
    ends = (0.5 - nominal / 2, 0.5 + nominal / 2)
    low, high = np.quantile(x, ends, axis=0, method="weibull")
    inside = (low <= y) & (y <= high)
    expected = min(nominal, (k - 1) / (k + 1))
    return Coverage(y.size, k, nominal, expected, observed=float(inside.mean()))


def _ensemble(
    samples: ArrayLike, truth: ArrayLike, *, at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    if x.ndim == 0 or x.shape[1:] != y.shape:
        raise ValueError(f"samples have shape {x.shape}, truth {y.shape}; need [k, ...] and [...]")
    if len(x) < at_least:
        raise ValueError(f"need at least {at_least} members, got {len(x)}")
    if y.size == 0:
        raise ValueError("there is no truth to compare with: the region is empty")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("samples or truth hold NaN or infinity")
    return x, y
