"""Hallucination Index: Hellinger distance of what is sampled from what is true.

Shape key: `samples [k, ...]` and `truth [...]` in HU. Degenerate input: the rule of the package.

Tivnan et al. 2024 (arXiv 2407.12780) define the index as the Hellinger distance from the
distribution of reconstructed images to a reference without hallucination. `hi_diag` here is a
named variant, not their program: each voxel on its own, Gaussian, averaged over a region. Not
verified against the full text: how they choose the reference's width, the structure of the
covariance, and the averaging. Compare its values with each other only.

It is the average over voxels, because the joint distance of a whole volume is 1 whatever the
model. With few members it is not 0 even for a perfect sampler: mean and variance are estimates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CT_NOISE_HU = 18.0
FEWEST_MEMBERS = 8
VARIANCE_FLOOR_HU2 = 1.0


@dataclass(frozen=True)
class HallucinationIndex:
    """Mean Hellinger distance over `voxels` voxels, 0 (none) to 1, and the reference's SD in HU."""

    variant: str
    voxels: int
    members: int
    reference_sd_hu: float
    index: float


def hi_diag(
    samples: ArrayLike,
    truth: ArrayLike,
    *,
    mask: np.ndarray | None = None,
    reference_sd_hu: float | None = CT_NOISE_HU,
) -> HallucinationIndex:
    """Per-voxel index of K >= 8 samples against N(truth, `reference_sd_hu`²), mean over `mask`.

    `reference_sd_hu` None matches the reference's variance to the samples' mean variance: then an
    ensemble that is wide everywhere is not blamed for it. Report both. Variances are unbiased, and
    1 HU² is added to the samples'.
    """
    x, y = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    inside = np.ones(y.shape, bool) if mask is None else np.asarray(mask) != 0
    _check(x, y, inside)
    x, y = x[:, inside], y[inside]
    variance = x.var(0, ddof=1) + VARIANCE_FLOOR_HU2
    reference = variance.mean() if reference_sd_hu is None else float(reference_sd_hu) ** 2
    if not reference > 0:
        raise ValueError(f"reference_sd_hu is {reference_sd_hu}; it must be positive")
    distance = hellinger(x.mean(0), variance, y, reference)
    return HallucinationIndex(
        "hi_diag", y.size, len(x), float(np.sqrt(reference)), float(distance.mean())
    )


def hellinger(
    mean_1: ArrayLike, variance_1: ArrayLike, mean_2: ArrayLike, variance_2: ArrayLike
) -> np.ndarray:
    """Hellinger distance of two univariate Gaussians, broadcast over arrays; in [0, 1]."""
    v1, v2 = np.asarray(variance_1, np.float64), np.asarray(variance_2, np.float64)
    apart = np.asarray(mean_1, np.float64) - np.asarray(mean_2, np.float64)
    overlap = np.sqrt(2 * np.sqrt(v1 * v2) / (v1 + v2)) * np.exp(-(apart**2) / (4 * (v1 + v2)))
    return np.sqrt(np.maximum(1 - overlap, 0))


def _check(x: np.ndarray, y: np.ndarray, inside: np.ndarray) -> None:
    if x.ndim == 0 or x.shape[1:] != y.shape or inside.shape != y.shape:
        raise ValueError(
            f"samples have shape {x.shape}, truth {y.shape}, mask {inside.shape}; "
            "need [k, ...] and twice [...]"
        )
    if len(x) < FEWEST_MEMBERS:
        raise ValueError(f"need at least {FEWEST_MEMBERS} samples, got {len(x)}")
    if not inside.any():
        raise ValueError("the region is empty")
    if not (np.isfinite(x[:, inside]).all() and np.isfinite(y[inside]).all()):
        raise ValueError("samples or truth hold NaN or infinity inside the region")
