"""The state equations: how much gas each lung element holds at end-expiration and end-inspiration.

Each 4 mm element has a sigmoid pressure-volume curve and threshold opening and closing pressures
(Crotti 2001); superimposed pressure grows with the density above it along gravity (Cressoni 2014);
chest wall and lung share the airway pressure. Recruitment follows from these, none is painted.
Pressures cmH2O, volumes ml, masses g.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from .injury import Stage
from .traits import Traits

TISSUE_G_ML = 1.04
MAX_PLATEAU_CMH2O = 45.0
THRESHOLD_WIDTH_CMH2O = 2.2
SLAB_MM = 4.0
PRONE_WALL = 0.95  # chest wall compliance, prone to supine; Santini 2015 has FRC 21 % higher prone
PRONE_REST_ML_KG = 4.5  # and its resting volume rises: the abdomen hangs free
# Thresholds and local sigmoids of healthy lung, transpulmonary cmH2O, and what full injury adds;
# opening and closing by `Stage`. Choices, fitted to the anchors of benchmarks/calibration.py. A
# healthy airway closes where the lung's local pressure is about zero (Milic-Emili 1966), which at
# zero PEEP is the most dependent lung.
OPENING_CMH2O, OPENING_SPREAD_CMH2O = 0.5, 1.2
CLOSING_CMH2O, CLOSING_SPREAD_CMH2O, CLOSING_SPREAD_INJURED_CMH2O = 0.3, 1.5, 2.0
HALF_SPREAD_CMH2O, HALF_INJURED_CMH2O = 3.2, 8.5
LOST_CAPACITY = 0.6  # of injured lung: flooded airspace holds no gas
_GRAVITY_STEPS = 4
_GAS_BOUNDS = (-40.0, 90.0)  # cmH2O, transpulmonary


@dataclass(frozen=True)
class Elements:
    """The lung of one pig, stage and position as arrays `[n]` over material elements."""

    healthy_g: np.ndarray  # parenchyma before oedema
    tissue_g: np.ndarray  # parenchyma with oedema
    vessel_g: np.ndarray
    solid_ml: np.ndarray  # vessels, airway walls and airway lumen
    rest_ml: np.ndarray  # volume in the reference frame
    airway_ml: float  # gas in the airways, all elements together
    height_mm: np.ndarray  # y
    organs_cmh2o: np.ndarray  # weight of heart and abdomen
    injury: np.ndarray
    core: np.ndarray
    opening_noise: np.ndarray
    elastic: np.ndarray

    @property
    def mass_g(self) -> float:
        return float(self.tissue_g.sum() + self.vessel_g.sum())


@dataclass(frozen=True)
class Ventilator:
    """What is applied: PEEP (cmH2O) and the tidal volume to deliver (ml)."""

    peep_cmh2o: float
    tidal_volume_ml: float

    def __post_init__(self) -> None:
        """Refuses what no ventilator can be set to, NaN included: ValueError."""
        if not 0 <= self.peep_cmh2o < MAX_PLATEAU_CMH2O:
            raise ValueError(
                f"PEEP is {self.peep_cmh2o:g} cmH2O; use 0 to below {MAX_PLATEAU_CMH2O:g}"
            )
        if not 0 < self.tidal_volume_ml < np.inf:
            raise ValueError(f"tidal volume is {self.tidal_volume_ml:g} ml; use more than 0")


@dataclass(frozen=True)
class Breath:
    """One breath of the cyclic steady state; gas arrays `[n]` in ml per element."""

    gas_ee_ml: np.ndarray
    gas_ei_ml: np.ndarray
    airway_ml: float
    delivered_ml: float
    plateau_cmh2o: float
    compliance_ml_cmh2o: float
    transpulmonary_ee: float
    transpulmonary_ei: float
    open_ee: float  # open share of the openable tissue
    open_ei: float
    superimposed_max_cmh2o: float

    def gas_ml(self, phase: str) -> np.ndarray:
        return self.gas_ei_ml if phase == "inspiration" else self.gas_ee_ml


@dataclass(frozen=True)
class LocalCurves:
    """The curves of all elements at a given superimposed pressure, `[n]` float32."""

    traits: Traits
    capacity_ml: np.ndarray
    half: np.ndarray
    opens: np.ndarray
    closes: np.ndarray
    prone: bool

    def open_share(self, p: float) -> np.ndarray:
        return ndtr((p - self.opens) * np.float32(1 / THRESHOLD_WIDTH_CMH2O))

    def kept_share(self, p: float) -> np.ndarray:
        return ndtr((p - self.closes) * np.float32(1 / THRESHOLD_WIDTH_CMH2O))

    def gas(self, p: float, share: np.ndarray) -> np.ndarray:
        width = np.float32(1 / self.traits.sigmoid_width_cmh2o)
        return self.capacity_ml * share * expit((p - self.half) * width)

    def pleural(self, gas_ml: float) -> float:
        """Pressure the chest wall adds; prone it is stiffer and rests higher."""
        t = self.traits
        rest = t.chest_wall_rest_ml + (PRONE_REST_ML_KG * t.weight_kg if self.prone else 0.0)
        return (gas_ml - rest) / (t.chest_wall_ml_cmh2o * (PRONE_WALL if self.prone else 1.0))


def gas_capacity(e: Elements, traits: Traits) -> np.ndarray:
    """Gas at full inflation, ml per element `[n]`: none in the core, less where injured."""
    left = (1 - e.core) * (1 - LOST_CAPACITY * e.injury)
    return e.healthy_g * traits.gas_capacity_ml_g * left


def local_curves(
    e: Elements, traits: Traits, stage: Stage, prone: bool, superimposed: np.ndarray
) -> LocalCurves:
    """Curves with the local pressure P_L - (SP - mean SP) folded into their thresholds."""
    extra = superimposed - np.average(superimposed, weights=e.healthy_g)
    i, n = e.injury, e.opening_noise
    opens = (
        OPENING_CMH2O + stage.opening * i + (OPENING_SPREAD_CMH2O + stage.opening_spread * i) * n
    )
    closes = (
        CLOSING_CMH2O
        + stage.closing * i
        + (CLOSING_SPREAD_CMH2O + CLOSING_SPREAD_INJURED_CMH2O * i) * n
    )
    half = (
        traits.half_inflation_cmh2o
        + HALF_SPREAD_CMH2O * e.elastic
        + HALF_INJURED_CMH2O * i
        + stage.stiffening
    )
    capacity = gas_capacity(e, traits)
    arrays = (a.astype(np.float32) for a in (capacity, half + extra, opens + extra, closes + extra))
    return LocalCurves(traits, *arrays, prone)


def superimposed_pressure(e: Elements, gas_ml: np.ndarray, prone: bool) -> np.ndarray:
    """Weight of the lung above each element, with that of heart and abdomen, cmH2O `[n]`.

    Mean density per 4 mm slab summed along gravity; slabs are stretched by the lung's expansion.
    """
    slab = np.floor((e.height_mm - e.height_mm.min()) / SLAB_MM).astype(int)
    volume = e.tissue_g / TISSUE_G_ML + gas_ml + e.solid_ml
    mass = np.bincount(slab, e.tissue_g + e.vessel_g)
    density = mass / np.maximum(np.bincount(slab, volume), 1e-6)
    stretch = np.cbrt(volume.sum() / e.rest_ml.sum())
    weight = density * SLAB_MM / 10 * stretch
    above = np.cumsum(weight) - weight / 2
    if prone:
        above = weight.sum() - above
    return above[slab] + e.organs_cmh2o


def solve_breath(
    e: Elements, traits: Traits, stage: Stage, setting: Ventilator, *, prone: bool
) -> Breath:
    """The breath at `setting`: density and superimposed pressure are brought to agree."""
    mean_gas = 0.35 * gas_capacity(e, traits)
    for step in range(_GRAVITY_STEPS):
        superimposed = superimposed_pressure(e, mean_gas, prone)
        curves = local_curves(e, traits, stage, prone, superimposed)
        precise = step == _GRAVITY_STEPS - 1
        p_ei = _inspiratory_pressure(curves, e.airway_ml, setting, 1e-4 if precise else 0.05)
        opened = curves.open_share(p_ei)
        p_ee = _rest_pressure(curves, e.airway_ml, setting.peep_cmh2o, opened)
        kept = opened * curves.kept_share(p_ee)
        gas_ei, gas_ee = curves.gas(p_ei, opened), curves.gas(p_ee, kept)
        mean_gas = (gas_ei + gas_ee) / 2
    return _breath(e, curves, setting, (p_ee, kept, gas_ee), (p_ei, opened, gas_ei), superimposed)


def _breath(e: Elements, curves: LocalCurves, setting, expired, inspired, superimposed) -> Breath:
    (p_ee, kept, gas_ee), (p_ei, opened, gas_ei) = expired, inspired
    delivered = _total(gas_ei) - _total(gas_ee)
    plateau = p_ei + curves.pleural(_total(gas_ei) + e.airway_ml)
    openable = e.healthy_g * (1 - e.core)
    return Breath(
        gas_ee_ml=gas_ee,
        gas_ei_ml=gas_ei,
        airway_ml=e.airway_ml,
        delivered_ml=delivered,
        plateau_cmh2o=plateau,
        compliance_ml_cmh2o=delivered / (plateau - setting.peep_cmh2o),
        transpulmonary_ee=p_ee,
        transpulmonary_ei=p_ei,
        open_ee=float(np.average(kept, weights=openable)),
        open_ei=float(np.average(opened, weights=openable)),
        superimposed_max_cmh2o=float(superimposed.max()),
    )


def _total(gas: np.ndarray) -> float:
    return float(gas.sum(dtype=np.float64))


def share_pressure(
    curves: LocalCurves,
    airway_ml: float,
    airway_cmh2o: float,
    share_at: Callable[[float], np.ndarray],
    *,
    tolerance: float = 1e-4,
) -> float:
    """Transpulmonary P_L with P_L + P_pl = `airway_cmh2o`; `share_at(P_L)` `[n]` is open."""

    def excess(p: float) -> float:
        return p + curves.pleural(_total(curves.gas(p, share_at(p))) + airway_ml) - airway_cmh2o

    return float(brentq(excess, *_GAS_BOUNDS, xtol=tolerance))


def _rest_pressure(curves: LocalCurves, airway_ml: float, peep: float, opened: np.ndarray) -> float:
    """Transpulmonary pressure at which the lung, opened as it was, rests at PEEP."""
    return share_pressure(curves, airway_ml, peep, lambda p: opened * curves.kept_share(p))


def _inspiratory_pressure(
    curves: LocalCurves, airway_ml: float, setting: Ventilator, tolerance: float
) -> float:
    """Transpulmonary pressure that delivers the tidal volume, or that of the pressure limit."""
    peep = setting.peep_cmh2o

    def shortfall(p: float) -> float:
        opened = curves.open_share(p)
        rest = _rest_pressure(curves, airway_ml, peep, opened)
        expired = _total(curves.gas(rest, opened * curves.kept_share(rest)))
        return _total(curves.gas(p, opened)) - expired - setting.tidal_volume_ml

    high = share_pressure(curves, airway_ml, MAX_PLATEAU_CMH2O, curves.open_share, tolerance=1e-3)
    if shortfall(high) < 0:
        return high
    return float(brentq(shortfall, _GAS_BOUNDS[0], high, xtol=tolerance))
