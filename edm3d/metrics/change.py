"""Error of a change: how much of what ventilation did is in the generated CT.

Shape key: `[n]` one value per case, or images `[z, y, x]`. Degenerate input: the rule of the
package.

A copy of the prior has an R² near 1 for lung volume, because animals differ more than a change of
ventilation moves them. Against the change it scores what it is worth: nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edm3d.metrics.agreement import (
    BlandAltman,
    Regression,
    bland_altman,
    determination,
    linear_regression,
)
from edm3d.metrics.pairs import pair
from edm3d.metrics.reliability import concordance


@dataclass(frozen=True)
class ChangeAgreement:
    """Agreement of the predicted with the true change, in the unit of the values.

    `regression` is of the predicted on the true change: slope 1 is right, 0 ignores it.
    `determination` is 1 - SSE/SST, `explained` 1 - SSE over the true changes' sum of squares: 0 for
    a copy of the prior. `same_direction` is the share of the cases that changed whose prediction
    goes the same way. All three are NaN where the true change leaves them undefined.
    """

    n: int
    mean_true: float
    mean_predicted: float
    error: BlandAltman
    regression: Regression
    concordance: float
    determination: float
    explained: float
    same_direction: float


@dataclass(frozen=True)
class ResidualAgreement:
    """The generated residual against the true one, voxel by voxel inside a mask.

    `r` is Pearson's, NaN where a residual is constant (a copy of the prior). `gain` is the slope
    through 0 of the generated on the true residual, `relative_error` the norm of the error over
    that of the true residual: 1 for a copy of the prior; both NaN where nothing changed.
    """

    voxels: int
    r: float
    gain: float
    relative_error: float


def change_agreement(
    generated: ArrayLike, target: ArrayLike, prior: ArrayLike, *, confidence: float = 0.95
) -> ChangeAgreement:
    """Agreement of `generated - prior` with `target - prior`, each `[n]`, n >= 2.

    For volumes in ml as for fractions in %: a change of a fraction is in points. The bias and the
    limits in `error` are those of the values themselves, for the prior cancels.
    """
    y, start = pair(generated, prior, at_least=2)
    x, _ = pair(target, prior, at_least=2)
    true, predicted = x - start, y - start
    squares, moved = float(true @ true), true != 0
    same = np.sign(predicted[moved]) == np.sign(true[moved])
    return ChangeAgreement(
        n=true.size,
        mean_true=float(true.mean()),
        mean_predicted=float(predicted.mean()),
        error=bland_altman(predicted, true, confidence=confidence),
        regression=linear_regression(true, predicted, confidence=confidence),
        concordance=concordance(predicted, true),
        determination=determination(predicted, true),
        explained=1 - float(np.sum((predicted - true) ** 2)) / squares if squares else float("nan"),
        same_direction=float(same.mean()) if same.size else float("nan"),
    )


def residual_agreement(
    generated_hu: np.ndarray, target_hu: np.ndarray, prior_hu: np.ndarray, mask: np.ndarray
) -> ResidualAgreement:
    """Agreement of `generated - prior` with `target - prior` inside `mask`, images of one shape."""
    shapes = [a.shape for a in (generated_hu, target_hu, prior_hu, mask)]
    if len(set(shapes)) > 1:
        raise ValueError(f"images and mask differ in shape: {shapes}")
    inside = mask != 0
    y, x, start = (np.asarray(a[inside], np.float64) for a in (generated_hu, target_hu, prior_hu))
    if y.size == 0:
        raise ValueError("the region is empty")
    if not all(np.isfinite(a).all() for a in (y, x, start)):
        raise ValueError("the images hold NaN or infinity inside the region")
    true, predicted = x - start, y - start
    norm, nan = float(np.linalg.norm(true)), float("nan")
    return ResidualAgreement(
        voxels=y.size,
        r=linear_regression(true, predicted).r if y.size > 1 else nan,
        gain=float(true @ predicted) / norm**2 if norm else nan,
        relative_error=float(np.linalg.norm(predicted - true)) / norm if norm else nan,
    )
