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
    """Lung volume and gas (ml), tissue (g), compartments as shares of volume and of mass."""
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
        truth[f"{name}_volume_fraction"] = volume_ml[part].sum() / volume_ml.sum()
        truth[f"{name}_mass_fraction"] = tissue_g[part].sum() / tissue_g.sum()
    return {name: float(value) for name, value in truth.items()}


def breath_truth(breath: Breath, weight_kg: float) -> dict[str, float]:
    """Delivered tidal volume and mechanics of the respiratory system."""
    return {
        "tidal_volume_delivered_ml": breath.delivered_ml,
        "plateau_cmh2o": breath.plateau_cmh2o,
        "compliance_ml_cmh2o": breath.compliance_ml_cmh2o,
        "compliance_ml_cmh2o_kg": breath.compliance_ml_cmh2o / weight_kg,
        "transpulmonary_ee_cmh2o": breath.transpulmonary_ee,
        "transpulmonary_ei_cmh2o": breath.transpulmonary_ei,
        "superimposed_max_cmh2o": breath.superimposed_max_cmh2o,
    }
