"""The exact numbers of a scan, from its soft lung coverage and noise-free density."""

import numpy as np

from .mechanics import TISSUE_G_ML, Breath
from .render import Scan

# Aeration compartments by HU (Gattinoni; science notes 1.1).
COMPARTMENTS = {
    "hyper": (-np.inf, -900.0),
    "normal": (-900.0, -500.0),
    "poor": (-500.0, -100.0),
    "non": (-100.0, np.inf),
}


def lung_truth(scan: Scan) -> dict[str, float]:
    """Lung volume and gas (ml), tissue (g), compartments by volume and by mass, also as shares."""
    inside = scan.lung_cover > 0
    volume_ml = scan.lung_cover[inside].astype(float) * scan.lattice.voxel_ml
    hu = scan.lung_hu[inside].astype(float)
    gas_ml = volume_ml * (-hu / 1000)
    tissue_g = (volume_ml - gas_ml) * TISSUE_G_ML
    truth = {
        "lung_volume_ml": volume_ml.sum(),
        "gas_ml": gas_ml.sum(),
        "tissue_g": tissue_g.sum(),
    }
    for name, (low, high) in COMPARTMENTS.items():
        part = (hu >= low) & (hu < high)
        truth[f"{name}_volume_ml"] = volume_ml[part].sum()
        truth[f"{name}_tissue_g"] = tissue_g[part].sum()
        truth[f"{name}_volume_fraction"] = volume_ml[part].sum() / volume_ml.sum()
        truth[f"{name}_mass_fraction"] = tissue_g[part].sum() / tissue_g.sum()
    return {name: float(value) for name, value in truth.items()}


def gas_fraction(scan: Scan) -> np.ndarray:
    """Share of each voxel `[z, y, x]` that is gas of the lungs; times the voxel it sums to the gas.

    Gas outside the lungs (trachea above the hila, stomach, air around the animal) counts 0.
    """
    return scan.lung_cover * np.clip(-scan.lung_hu / 1000, 0, 1)


def breath_truth(breath: Breath, phase: str, weight_kg: float) -> dict[str, float]:
    """Delivered tidal volume, mechanics of the respiratory system and what is open at `phase`.

    Open fractions are of the tissue that can open at all: what is kept at end-expiration, what was
    opened at end-inspiration; their difference opens and closes with every breath.
    """
    return {
        "tidal_volume_delivered_ml": breath.delivered_ml,
        "plateau_cmh2o": breath.plateau_cmh2o,
        "compliance_ml_cmh2o": breath.compliance_ml_cmh2o,
        "compliance_ml_cmh2o_kg": breath.compliance_ml_cmh2o / weight_kg,
        "transpulmonary_ee_cmh2o": breath.transpulmonary_ee,
        "transpulmonary_ei_cmh2o": breath.transpulmonary_ei,
        "superimposed_max_cmh2o": breath.superimposed_max_cmh2o,
        "open_fraction": breath.open_ei if phase == "inspiration" else breath.open_ee,
        "open_ee_fraction": breath.open_ee,
        "open_ei_fraction": breath.open_ei,
        "tidal_recruitment_fraction": breath.open_ei - breath.open_ee,
    }
