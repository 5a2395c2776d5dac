"""Noise of the virtual CT beside real CTs: level and power spectrum in flat soft tissue.

    python benchmarks/ct_noise.py REAL.nii.gz ... --virtual COHORT

Prints a table and writes benchmarks/results/ct_noise.json. Squares of 22 mm in one slice whose
blurred HU stay in soft tissue are freed of a quadratic trend; what is left is noise and some
anatomy, so real figures are upper limits. The quieter 60 % of the squares are used.
"""

import argparse
import itertools
from pathlib import Path

import nibabel
import numpy as np
from provenance import origin, write_result
from scipy import ndimage

SQUARE_MM = 22.0
SOFT_HU = (20.0, 90.0)  # mean of a square; its blurred values stay within 25 HU of these
QUIETER = 60  # percent
BINS = 5  # from 0 to the Nyquist frequency


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """HU `[z, y, x]` and spacing (z, y, x) in mm."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    hu = np.asarray(image.dataobj).transpose(2, 1, 0).astype(np.float32)
    return hu, np.array(image.header.get_zooms()[::-1], float)


def flat_squares(hu: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Squares `[n, y, x]` of soft tissue that do not overlap."""
    n = round(SQUARE_MM / pixel_mm)
    blurred = ndimage.gaussian_filter(hu, (0, 2, 2))
    mean = ndimage.uniform_filter(hu, (0, n, n))
    soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1])
    soft &= ndimage.minimum_filter(blurred, (1, n, n)) > SOFT_HU[0] - 25
    soft &= ndimage.maximum_filter(blurred, (1, n, n)) < SOFT_HU[1] + 25
    taken, squares = np.zeros(hu.shape, bool), []
    for z, y, x in np.argwhere(soft) - (0, n // 2, n // 2):
        where = (z, slice(y, y + n), slice(x, x + n))
        if min(y, x) >= 0 and hu[where].shape == (n, n) and not taken[where].any():
            taken[where] = True
            squares.append(hu[where])
    return np.array(squares)


def without_trend(squares: np.ndarray) -> np.ndarray:
    """Each square less its quadratic fit."""
    n = squares.shape[-1]
    y, x = (axis.ravel() for axis in np.mgrid[:n, :n] - (n - 1) / 2)
    terms = np.stack([np.ones(n * n), x, y, x * x, x * y, y * y], 1)
    flat = squares.reshape(len(squares), -1).T
    return (flat - terms @ np.linalg.lstsq(terms, flat, rcond=None)[0]).T.reshape(squares.shape)


def radial_power(noise: np.ndarray) -> np.ndarray:
    """Mean power in `BINS` rings up to the Nyquist frequency, over its largest value."""
    n = noise.shape[-1]
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)) / 0.5
    edges = np.linspace(0, 1, BINS + 1)
    rings = [power[(f > a) & (f <= b)].mean() for a, b in itertools.pairwise(edges)]
    return np.array(rings) / max(rings)


def measure(path: Path, name: str) -> dict:
    hu, spacing = read(path)
    squares = flat_squares(hu, spacing[2])
    if not len(squares):
        raise SystemExit(f"error: {path} has no flat square of soft tissue; leave it out")
    noise = without_trend(squares)
    sd = noise.std((1, 2))
    noise = noise[sd <= np.percentile(sd, QUIETER)]
    level = float(np.median(noise.std((1, 2))))
    return {
        "ct": name,
        "spacing_zyx_mm": np.round(spacing, 2).tolist(),
        "squares": len(noise),
        "sd_hu": round(level, 1),
        "sd_hu_in_8mm3": round(level * float(np.sqrt(spacing.prod() / 8)), 1),
        "power_by_ring": np.round(radial_power(noise), 2).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", nargs="*", type=Path)
    parser.add_argument("--virtual", type=Path, help="a cohort; its first scan of each pig")
    chosen = parser.parse_args()
    cases = [(path, "/".join(path.parts[-2:])) for path in chosen.real]
    for pig in sorted(chosen.virtual.glob("pig*")) if chosen.virtual else []:
        path = sorted(pig.glob("*-e[ei].nii.gz"))[0]
        cases.append((path, f"virtual {pig.name}"))
    if not cases:
        raise SystemExit("error: there is no CT to measure; name real ones or a --virtual cohort")
    rows = []
    for path, name in cases:
        rows.append(measure(path, name))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    write_result("ct_noise", {**origin(("numpy", "scipy", "nibabel")), "rows": rows})


if __name__ == "__main__":
    main()
