"""Losses told apart by their noise level, and the fixed levels of a validation.

Shapes: b batch, k sigma bins.
"""

import itertools

import numpy as np
from scipy.special import ndtri

SIGMA_EDGES = (0.05, 0.2, 0.8, 3.2)  # bins of the loss by noise level: below, between, above


def by_sigma(losses: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums `[k]` and counts `[k]` of the losses in the bins that `SIGMA_EDGES` separate."""
    bins, k = np.digitize(sigma, SIGMA_EDGES), len(SIGMA_EDGES) + 1
    return np.bincount(bins, losses, minlength=k), np.bincount(bins, minlength=k)


def sigma_bin_names() -> list[str]:
    """How the bins of `by_sigma` are called in logs."""
    edges = ("0", *(f"{e:g}" for e in SIGMA_EDGES), "inf")
    return [f"{low}-{high}" for low, high in itertools.pairwise(edges)]


def validation_sigmas(count: int, *, p_mean: float, p_std: float) -> np.ndarray:
    """`[count]` rising noise levels, evenly spread quantiles of those of the training."""
    quantiles = (np.arange(count) + 0.5) / count
    return np.exp(p_mean + p_std * ndtri(quantiles)).astype(np.float32)
