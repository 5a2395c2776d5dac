"""Paired measurements `[n]`, checked once: what every statistic of agreement starts from."""

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float]

NO_INTERVAL: Interval = (float("nan"), float("nan"))


def pair(x: ArrayLike, y: ArrayLike, *, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 `[n]`.

    Raises `ValueError` on unequal lengths, fewer than `at_least` values, NaN or infinity.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"need two arrays [n] of one length, got shapes {a.shape} and {b.shape}")
    if a.size < at_least:
        raise ValueError(f"need at least {at_least} measurements, got {a.size}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("measurements hold NaN or infinity")
    return a, b


def difference(measured: ArrayLike, reference: ArrayLike, *, at_least: int) -> np.ndarray:
    """`measured - reference`, `[n]`, checked as in `pair`."""
    a, b = pair(measured, reference, at_least=at_least)
    return a - b


def subject_indices(subjects: ArrayLike, n: int) -> tuple[np.ndarray, int]:
    """The subject of each of `n` measurements as `[n]` integers from 0, and how many there are.

    Raises `ValueError` where `subjects` is not `[n]` or names fewer than two.
    """
    names = np.asarray(subjects)
    if names.shape != (n,):
        raise ValueError(f"subjects have shape {names.shape}, measurements ({n},)")
    found, index = np.unique(names, return_inverse=True)
    if found.size < 2:
        raise ValueError("need at least two subjects; one alone says nothing about others")
    return index, found.size


def around(centre: float, half: float) -> Interval:
    """The interval centre ± half."""
    return float(centre - half), float(centre + half)


def tails(confidence: float) -> tuple[float, float]:
    """The probabilities below the two ends of an interval; `ValueError` outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
    return 0.5 - confidence / 2, 0.5 + confidence / 2
