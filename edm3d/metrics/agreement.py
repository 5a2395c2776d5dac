"""How well two measurements of the same quantity agree: Bland-Altman, and the door to the rest.

Shape key: `[n]` measurements, one per scan. Degenerate input: the rule of the package.

`bland_altman` takes the scans as independent. Several scans of one subject are not: see `repeated`
for limits that know it and `bootstrap` for intervals that resample subjects. `regression` holds
least squares and Pearson's r, `reliability` Lin's and the intraclass coefficients, `change` the
agreement of a change with the true change.

References:
  Bland & Altman 1986, Lancet 327:307 (limits of agreement and their approximate intervals).
  Bland & Altman 1999, Stat Methods Med Res 8:135.
  Carkeet 2015, Optom Vis Sci 92:e71 (exact intervals of the limits, by the noncentral t).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from edm3d.metrics.pairs import Interval, around, difference, pair, tails
from edm3d.metrics.regression import Regression, linear_regression, pearson_r
from edm3d.metrics.reliability import concordance
from edm3d.metrics.repeated import LIMITS_Z, RepeatedLimits, repeated_measures_limits

__all__ = [
    "LIMITS_Z",
    "BlandAltman",
    "Regression",
    "RepeatedLimits",
    "bland_altman",
    "concordance",
    "determination",
    "linear_regression",
    "mean_absolute_error",
    "pearson_r",
    "proportional_bias",
    "repeated_measures_limits",
]


@dataclass(frozen=True)
class BlandAltman:
    """Bias, SD and limits of agreement of `measured - reference`, with confidence intervals.

    `bias_ci` is exact for normal differences; the limits have an approximate interval,
    `lower_ci` and `upper_ci`, as published, and an exact one, which is not symmetric.
    """

    n: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_ci: Interval
    lower_ci: Interval
    upper_ci: Interval
    lower_ci_exact: Interval
    upper_ci_exact: Interval


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
    d = difference(measured, reference, at_least=2)
    n, bias, sd = d.size, float(d.mean()), float(d.std(ddof=1))
    t = float(stats.t.ppf(tails(confidence)[1], n - 1))
    lower, upper = bias - multiplier * sd, bias + multiplier * sd
    half_bias = t * sd / np.sqrt(n)
    half_limit = half_bias * np.sqrt(1 + multiplier**2 / 2)
    near, far = exact_multipliers(n, multiplier=multiplier, confidence=confidence)
    return BlandAltman(
        n=n,
        bias=bias,
        sd=sd,
        lower=lower,
        upper=upper,
        bias_ci=around(bias, half_bias),
        lower_ci=around(lower, half_limit),
        upper_ci=around(upper, half_limit),
        lower_ci_exact=(bias - far * sd, bias - near * sd),
        upper_ci_exact=(bias + near * sd, bias + far * sd),
    )


def exact_multipliers(
    n: int, *, multiplier: float = LIMITS_Z, confidence: float = 0.95
) -> tuple[float, float]:
    """The k of bias ± k SD at the inner and the outer end of a limit's exact interval.

    For normal differences (bias - limit) sqrt(n) / SD has a noncentral t distribution with n - 1
    degrees of freedom and noncentrality multiplier * sqrt(n) (Carkeet 2015).
    """
    root = np.sqrt(n)
    near, far = stats.nct.ppf(tails(confidence), n - 1, multiplier * root) / root
    return float(near), float(far)


def proportional_bias(
    measured: ArrayLike,
    reference: ArrayLike,
    *,
    on_reference: bool = False,
    confidence: float = 0.95,
) -> Regression:
    """Does the difference grow with the size? Its regression on the mean of both; n >= 3.

    `slope_p` tests a slope of 0 (Bland & Altman 1999, section 3.2). `on_reference` regresses on
    the reference instead: right where that is exact, while the error of a noisy reference alone
    gives it a negative slope.
    """
    x, y = pair(measured, reference, at_least=3)
    return linear_regression(y if on_reference else (x + y) / 2, x - y, confidence=confidence)


def determination(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Coefficient of determination 1 - SSE/SST of `[n]` predictions; NaN for a constant reference.

    Unlike r² it is lowered by a wrong scale, offset or sign: 1 is perfect, 0 no better than the
    mean of the references, below 0 worse than it.
    """
    x, y = pair(predicted, reference, at_least=2)
    if np.ptp(y) == 0:
        return float("nan")
    return float(1 - np.sum((x - y) ** 2) / np.sum((y - y.mean()) ** 2))


def mean_absolute_error(measured: ArrayLike, reference: ArrayLike) -> float:
    """Mean of |measured - reference| over `[n]`, in the data's unit."""
    return float(np.abs(difference(measured, reference, at_least=1)).mean())
