"""The relaxed pressure-volume curve of a lung: inflated slowly from rest to 45 cmH2O and let down.

The published curves are of this kind, and the gap between the limbs is the lung's hysteresis.
"""

import numpy as np

from .injury import Stage
from .mechanics import (
    MAX_PLATEAU_CMH2O,
    Elements,
    LocalCurves,
    Ventilator,
    local_curves,
    share_pressure,
    solve_breath,
    superimposed_pressure,
)
from .traits import Traits

_RESTING_ML_KG = 8.0  # tidal volume before the manoeuvre, at zero end-expiratory pressure


def relaxed_curve(
    e: Elements, traits: Traits, stage: Stage, pressures: np.ndarray, *, prone: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Gas (ml) with the airways at airway `pressures` `[k]` cmH2O, going up and coming down.

    Going up, what was open at rest stays open and more opens; coming down, what 45 cmH2O opened
    stays open above its closing pressure.
    """
    setting = Ventilator(0.0, _RESTING_ML_KG * traits.weight_kg)
    rest = solve_breath(e, traits, stage, setting, prone=prone)
    weight = superimposed_pressure(e, (rest.gas_ee_ml + rest.gas_ei_ml) / 2, prone)
    curves = local_curves(e, traits, stage, prone, weight)
    kept = curves.open_share(rest.transpulmonary_ei) * curves.kept_share(rest.transpulmonary_ee)

    def rising(p: float) -> np.ndarray:
        return np.maximum(kept, curves.open_share(p))

    top = share_pressure(curves, e.airway_ml, MAX_PLATEAU_CMH2O, rising)
    opened = rising(top)

    def falling(p: float) -> np.ndarray:
        return opened * curves.kept_share(p)

    up = [_gas_ml(curves, e.airway_ml, pressure, rising) for pressure in pressures]
    down = [_gas_ml(curves, e.airway_ml, pressure, falling) for pressure in pressures]
    return np.array(up), np.array(down)


def _gas_ml(curves: LocalCurves, airway_ml: float, pressure: float, share_at) -> float:
    p = share_pressure(curves, airway_ml, pressure, share_at)
    return float(curves.gas(p, share_at(p)).sum(dtype=np.float64)) + airway_ml
