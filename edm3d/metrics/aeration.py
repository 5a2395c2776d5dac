"""Lung volume and aeration of a CT inside a lung mask.

Shape key: `volume_hu [z, y, x]` in Hounsfield units, `mask` of the same shape (anything non-zero is
lung), `spacing_zyx_mm` three lengths. Degenerate input: the rule of the package. `gravity` holds
the density profile, `change` the error of a change of these measures.

The compartments are those of quantitative CT in ARDS. The paper closes the normal interval at both
ends, [-900, -500] HU, so its neighbours are open there: hyper < -900, poor (-500, -100],
non > -100. Together they are the whole lung: non has no upper end, so that a vessel with contrast
or a rib inside the mask is not lost.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

NORMAL_HU = (-900.0, -500.0)
POOR_UPPER_HU = -100.0
TISSUE_G_PER_ML = 1.0  # (1 + HU/1000) is a density relative to water


@dataclass(frozen=True)
class Compartments:
    """The four aeration compartments, in ml, in g, or in % of volume or mass (sum 100)."""

    hyper: float
    normal: float
    poor: float
    non: float


@dataclass(frozen=True)
class Recruitment:
    """Lung tissue that a change of ventilation aerated; negative where lung collapsed.

    `percent_of_mass` is the recruited mass in % of the lung's mass before.
    """

    non_aerated_before_g: float
    non_aerated_after_g: float
    recruited_g: float
    percent_of_mass: float


@dataclass(frozen=True)
class Aeration:
    """All measures of one CT in one mask: ml, g and % of the lung's volume or mass."""

    lung_volume_ml: float
    gas_volume_ml: float
    tissue_mass_g: float
    normally_aerated_percent: float
    volume_percent: Compartments
    mass_percent: Compartments


def lung_volume_ml(mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> float:
    """Volume of the mask, gas and tissue together, in ml."""
    return float(np.count_nonzero(mask)) * voxel_ml(spacing_zyx_mm)


def normally_aerated_fraction(volume_hu: np.ndarray, mask: np.ndarray) -> float:
    """Normally aerated lung, [-900, -500] HU, in % of the lung volume (paper section 2.4)."""
    hu = _inside(volume_hu, mask)
    return 100.0 * float(np.mean((hu >= NORMAL_HU[0]) & (hu <= NORMAL_HU[1])))


def gas_volume_ml(
    volume_hu: np.ndarray, mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]
) -> float:
    """Gas in the lung, sum of -HU/1000 over its voxels, in ml.

    Not cut at 0 HU: a cut turns the noise of gas-free voxels into gas, more in a noisy original
    than in a smooth ensemble mean, and uncut gas and tissue add up to the lung volume.
    """
    return float(-_inside(volume_hu, mask).sum() / 1000.0) * voxel_ml(spacing_zyx_mm)


def tissue_mass_g(
    volume_hu: np.ndarray, mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]
) -> float:
    """Mass of the lung (tissue, blood, water), sum of 1 + HU/1000 over its voxels, in g."""
    density = TISSUE_G_PER_ML * (1.0 + _inside(volume_hu, mask) / 1000.0)
    return float(density.sum()) * voxel_ml(spacing_zyx_mm)


def volume_compartments(volume_hu: np.ndarray, mask: np.ndarray) -> Compartments:
    """The four compartments in % of lung volume."""
    hu = _inside(volume_hu, mask)
    return _shares(hu, np.ones_like(hu))


def mass_compartments(volume_hu: np.ndarray, mask: np.ndarray) -> Compartments:
    """The four compartments in % of lung mass; voxels below -1000 HU count as massless."""
    hu = _inside(volume_hu, mask)
    return _shares(hu, _mass(hu))


def compartment_volumes_ml(
    volume_hu: np.ndarray, mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]
) -> Compartments:
    """The four compartments in ml; they sum to the lung volume."""
    hu = _inside(volume_hu, mask)
    return _sums(hu, np.full_like(hu, voxel_ml(spacing_zyx_mm)))


def compartment_masses_g(
    volume_hu: np.ndarray, mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]
) -> Compartments:
    """The four compartments in g; voxels below -1000 HU count as massless."""
    hu = _inside(volume_hu, mask)
    return _sums(hu, _mass(hu) * voxel_ml(spacing_zyx_mm))


def recruitment(before: Compartments, after: Compartments) -> Recruitment:
    """Mass that left the non-aerated compartment, from the `compartment_masses_g` of two states.

    The states may lie on different grids and in different masks. Raises `ValueError` where the
    lung has no mass before.
    """
    total = sum(astuple(before))
    if not total > 0:
        raise ValueError("the lung has no mass before the change; recruitment is undefined")
    recruited = before.non - after.non
    return Recruitment(before.non, after.non, recruited, 100.0 * recruited / total)


def measure(
    volume_hu: np.ndarray, mask: np.ndarray, spacing_zyx_mm: tuple[float, float, float]
) -> Aeration:
    """Everything this module measures, of one CT in one mask."""
    return Aeration(
        lung_volume_ml=lung_volume_ml(mask, spacing_zyx_mm),
        gas_volume_ml=gas_volume_ml(volume_hu, mask, spacing_zyx_mm),
        tissue_mass_g=tissue_mass_g(volume_hu, mask, spacing_zyx_mm),
        normally_aerated_percent=normally_aerated_fraction(volume_hu, mask),
        volume_percent=volume_compartments(volume_hu, mask),
        mass_percent=mass_compartments(volume_hu, mask),
    )


def mean_over_members(members: Sequence[Aeration]) -> Aeration:
    """The mean of each measure over an ensemble's members.

    Not the measures of the mean image: averaging CTs moves voxels between compartments.
    """
    if not members:
        raise ValueError("an ensemble needs at least one member")
    rows = [astuple(m) for m in members]
    lung, gas, tissue, normal = np.mean([row[:4] for row in rows], axis=0).tolist()
    by_volume, by_mass = (np.mean([row[i] for row in rows], axis=0).tolist() for i in (4, 5))
    shares = Compartments(*by_volume), Compartments(*by_mass)
    return Aeration(lung, gas, tissue, normal, *shares)


def voxel_ml(spacing_zyx_mm: tuple[float, float, float]) -> float:
    """Volume of one voxel in ml."""
    spacing = np.asarray(spacing_zyx_mm, np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"spacing_zyx_mm is {spacing_zyx_mm}; need three positive lengths")
    return float(spacing.prod()) / 1000.0


def _shares(hu: np.ndarray, weight: np.ndarray) -> Compartments:
    total = float(weight.sum())
    if total <= 0:
        raise ValueError("the lung has no mass; its mass compartments are undefined")
    return Compartments(*(100.0 * part / total for part in astuple(_sums(hu, weight))))


def _sums(hu: np.ndarray, weight: np.ndarray) -> Compartments:
    low, high = NORMAL_HU
    normal = (hu >= low) & (hu <= high)
    poor = (hu > high) & (hu <= POOR_UPPER_HU)
    parts = (hu < low, normal, poor, hu > POOR_UPPER_HU)
    return Compartments(*(float(weight[p].sum()) for p in parts))


def _mass(hu: np.ndarray) -> np.ndarray:
    """Mass of each voxel in g per ml of it, not below 0."""
    return TISSUE_G_PER_ML * np.maximum(1.0 + hu / 1000.0, 0.0)


def _inside(volume_hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The lung's values as float64 `[n]`."""
    if volume_hu.shape != mask.shape:
        raise ValueError(f"CT has shape {volume_hu.shape}, mask {mask.shape}")
    values = np.asarray(volume_hu[mask != 0], np.float64)
    if values.size == 0:
        raise ValueError("the lung mask is empty")
    if not np.isfinite(values).all():
        raise ValueError("the CT holds NaN or infinity inside the lung")
    return values
