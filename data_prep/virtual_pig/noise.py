"""Quantum noise of filtered back-projection, made in the image without projecting every view.

A plane wave of the reconstructed noise comes from the rays along its crests. White noise is
therefore split by wave direction; each part is given the ramp filter's spectrum and, at every
pixel, the Poisson noise of the ray of that direction, whose variance is 1 / photons, that is,
exp(line integral). The noise is streaky along the body's long axes and grows with thickness.
There is no bowtie filter and no tube current modulation: the current is one for all rays.

References: Riederer, Pelc and Chesler 1978 (spectrum |f| A(f)^2); Hsieh 1998 (streaks).
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, sparse

from .lattice import Lattice

NOISE_HU_AT_2MM = 18.0  # SD in an 8 mm^3 voxel whose every ray crosses the reference path
REFERENCE_PATH_MM = 177.0  # water; soft tissue of a virtual chest then shows 18 HU
MU_WATER_PER_MM = 0.0193  # 120 kVp, about 70 keV (NIST)
DIRECTIONS = 12  # ray directions in half a turn; the noise of those between is interpolated
_PROJECTED_MM = 5.0  # pixel of the copy that is projected
_BIN_MM = 8.0  # detector bin
_FINE_MM = 1.0  # step at which a pixel looks its ray up
_SLICES = 8  # slices worked on at a time


@dataclass(frozen=True)
class _Rays:
    """The rays of one direction: noise of each `[z, bins]` and which one crosses a pixel."""

    noise: np.ndarray
    bin_of_pixel: np.ndarray  # [y, x]


def quantum_noise(
    hu: np.ndarray, lattice: Lattice, rng: np.random.Generator, *, dose: float = 1.0
) -> np.ndarray:
    """Noise `[z, y, x]` in HU for the noise-free `hu`; its variance goes as 1 / (dose x voxel
    volume), that is, as 1 / photons. Slices are independent."""
    angles = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    copy, places = _coarse(hu, lattice)
    rays = [_rays_across(copy, places, lattice, angle) for angle in angles]
    size = [fft.next_fast_len(n, real=True) for n in hu.shape[1:]]
    parts = _directed_filters(size, lattice.spacing_zyx_mm[1:])
    level = NOISE_HU_AT_2MM * np.sqrt(8e-3 / (dose * lattice.voxel_ml))
    noise = np.empty(hu.shape, np.float32)
    for first in range(0, len(hu), _SLICES):
        some = slice(first, first + _SLICES)
        noise[some] = level * _noise_of_slices(noise[some].shape, some, rays, parts, size, rng)
    return noise


def _noise_of_slices(shape, some: slice, rays: list[_Rays], parts, size, rng) -> np.ndarray:
    """Noise of the slices `some`, 1 where rays cross the reference path."""
    white = fft.rfft2(rng.standard_normal((shape[0], *size), dtype=np.float32))
    total = np.zeros(shape, np.float32)
    for own, part in zip(rays, parts, strict=True):
        waves = fft.irfft2(white * part, s=size)[:, : shape[1], : shape[2]]
        total += waves * own.noise[some][:, own.bin_of_pixel]
    return total


def _directed_filters(size, spacing_yx_mm) -> np.ndarray:
    """Amplitude `[direction, y, x // 2 + 1]` of each direction's waves; all together white noise
    becomes noise of variance 1 with power |f| cos^2, band-limited at the voxel's corner."""
    fy, fx = (fft.fftfreq(n, step) for n, step in zip(size, spacing_yx_mm, strict=True))
    f = np.hypot(fy[:, None], fx)
    limit = np.hypot(*(0.5 / step for step in spacing_yx_mm))
    amplitude = np.sqrt(f) * np.cos(np.pi / 2 * np.minimum(f / limit, 1))
    amplitude = (amplitude / np.sqrt((amplitude**2).mean()))[:, : size[1] // 2 + 1]
    fx = np.abs(fx[: size[1] // 2 + 1])
    turn = (np.arctan2(fy[:, None], fx) % np.pi) * DIRECTIONS / np.pi
    away = np.abs(turn - np.arange(DIRECTIONS)[:, None, None])
    share = np.clip(1 - np.minimum(away, DIRECTIONS - away), 0, 1)
    return (amplitude * share).astype(np.float32)


def _coarse(hu: np.ndarray, lattice: Lattice) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Attenuation in units of water `[z, pixels]` of a copy of about 5 mm, and its y and x in mm.

    An edge that fills no whole pixel is left out; it holds air or couch.
    """
    _, *steps = lattice.spacing_zyx_mm
    block_y, block_x = (max(1, round(_PROJECTED_MM / step)) for step in steps)
    nz, ny, nx = hu.shape[0], hu.shape[1] // block_y, hu.shape[2] // block_x
    whole = np.maximum(1 + hu[:, : ny * block_y, : nx * block_x] / 1000, 0)
    copy = whole.reshape(nz, ny, block_y, nx, block_x).mean((2, 4), dtype=np.float32)
    _, y, x = lattice.axes()
    y = y[: ny * block_y].reshape(ny, block_y).mean(1)
    x = x[: nx * block_x].reshape(nx, block_x).mean(1)
    y, x = np.meshgrid(y, x, indexing="ij")
    return copy.reshape(nz, -1), (y.ravel(), x.ravel())


def _rays_across(copy: np.ndarray, places, lattice: Lattice, angle: float) -> _Rays:
    """The rays that run across the direction (cos, sin) of x and y."""
    _, y, x = lattice.open_mesh()
    across = (y * np.sin(angle) + x * np.cos(angle))[0]
    low, high = float(across.min()), float(across.max())
    bins = int(np.ceil((high - low) / _BIN_MM)) + 2
    at = (places[0] * np.sin(angle) + places[1] * np.cos(angle) - low) / _BIN_MM
    base = np.clip(at.astype(int), 0, bins - 2)
    part, pixel = at - base, np.arange(len(at))
    entries = np.concatenate([1 - part, part])
    where = (np.concatenate([base, base + 1]), np.concatenate([pixel, pixel]))
    project = sparse.csr_array((entries, where), shape=(bins, len(at)))
    area = (lattice.shape_zyx[1] * lattice.shape_zyx[2]) / copy.shape[1]
    area *= lattice.spacing_zyx_mm[1] * lattice.spacing_zyx_mm[2]
    path_mm = (project @ copy.T).T * (area / _BIN_MM)  # of water
    noise = np.exp(MU_WATER_PER_MM * (path_mm - REFERENCE_PATH_MM) / 2)
    steps = np.arange(0, high - low + _FINE_MM, _FINE_MM) / _BIN_MM
    fine = [np.interp(steps, np.arange(bins), of_slice) for of_slice in noise]
    return _Rays(np.asarray(fine, np.float32), np.rint((across - low) / _FINE_MM).astype(np.intp))
