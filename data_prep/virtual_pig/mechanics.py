"""The state equations: how much gas each lung element holds at end-expiration and end-inspiration.

Each 4 mm element has a sigmoid pressure-volume curve and threshold opening and closing pressures
(Crotti 2001); superimposed pressure grows with the density above it along gravity (Cressoni 2014);
chest wall and lung share the airway pressure. Recruitment follows from these, none is painted.
Pressures cmH2O, volumes ml, masses g.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from .injury import Stage
from .lattice import smooth_step
from .traits import Traits

TISSUE_G_ML = 1.04
MAX_PLATEAU_CMH2O = 45.0
THRESHOLD_WIDTH_CMH2O = 2.2
SLAB_MM = 4.0
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
    heart_cmh2o: np.ndarray  # weight of the heart
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


def heart_weight(scale: float, at, prone: bool) -> np.ndarray:
    """Pressure of the heart's weight on the lung below it at points `at`, cmH2O."""
    z, y, x = at
    footprint = np.exp(
        -(((x - 11 * scale) / (30 * scale)) ** 2) - ((z - 40 * scale) / (38 * scale)) ** 2
    )
    if prone:
        return 0.5 * footprint * smooth_step((-50 * scale - y) / (15 * scale))
    return 2.6 * footprint * smooth_step((y + 15 * scale) / (25 * scale))


@dataclass(frozen=True)
class _State:
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
        """Pressure the chest wall adds; prone it is stiffer and rests 3 ml/kg higher."""
        t = self.traits
        rest = t.chest_wall_rest_ml + (3.0 * t.weight_kg if self.prone else 0.0)
        return (gas_ml - rest) / (t.chest_wall_ml_cmh2o * (0.82 if self.prone else 1.0))


def _state(
    e: Elements, traits: Traits, stage: Stage, prone: bool, superimposed: np.ndarray
) -> _State:
    """Curves with the local pressure P_L - (SP - mean SP) folded into their thresholds."""
    extra = superimposed - np.average(superimposed, weights=e.healthy_g)
    i, n = e.injury, e.opening_noise
    opens = 0.5 + stage.opening * i + (1.2 + stage.opening_spread * i) * n
    closes = -5.0 + stage.closing * i + (0.8 + 3.0 * i) * n
    half = traits.half_inflation_cmh2o + 3.2 * e.elastic + 6.0 * i + stage.stiffening
    capacity = e.healthy_g * (1 - e.core) * traits.gas_capacity_ml_g * (1 - 0.35 * i)
    arrays = (a.astype(np.float32) for a in (capacity, half + extra, opens + extra, closes + extra))
    return _State(traits, *arrays, prone)


def superimposed_pressure(e: Elements, gas_ml: np.ndarray, prone: bool) -> np.ndarray:
    """Weight of the lung above each element, with the heart's, cmH2O `[n]`.

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
    return above[slab] + e.heart_cmh2o


def solve_breath(
    e: Elements, traits: Traits, stage: Stage, setting: Ventilator, *, prone: bool
) -> Breath:
    """The breath at `setting`: density and superimposed pressure are brought to agree."""
    mean_gas = 0.35 * e.healthy_g * (1 - e.core) * traits.gas_capacity_ml_g * (1 - 0.35 * e.injury)
    ends = _GAS_BOUNDS
    for step in range(_GRAVITY_STEPS):
        superimposed = superimposed_pressure(e, mean_gas, prone)
        state = _state(e, traits, stage, prone, superimposed)
        precise = step == _GRAVITY_STEPS - 1
        p_ei = _inspiratory_pressure(state, e.airway_ml, setting, 1e-4 if precise else 0.05, ends)
        opened = state.open_share(p_ei)
        p_ee = _expiratory_pressure(state, e.airway_ml, setting.peep_cmh2o, opened, ends)
        kept = opened * state.kept_share(p_ee)
        gas_ei, gas_ee = state.gas(p_ei, opened), state.gas(p_ee, kept)
        mean_gas = (gas_ei + gas_ee) / 2
    return _breath(e, state, setting, (p_ee, kept, gas_ee), (p_ei, opened, gas_ei), superimposed)


def _breath(e: Elements, state: _State, setting, expired, inspired, superimposed) -> Breath:
    (p_ee, kept, gas_ee), (p_ei, opened, gas_ei) = expired, inspired
    delivered = _total(gas_ei) - _total(gas_ee)
    plateau = p_ei + state.pleural(_total(gas_ei) + e.airway_ml)
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


def _airway_pressure(state: _State, airway_ml: float, p: float, share: np.ndarray) -> float:
    """P_aw = P_L + P_pl at transpulmonary pressure `p` with `share` of the elements open."""
    return p + state.pleural(_total(state.gas(p, share)) + airway_ml)


def _expiratory_pressure(
    state: _State, airway_ml: float, peep: float, opened: np.ndarray, ends: tuple[float, float]
) -> float:
    """Transpulmonary pressure at which the lung, opened as it was, rests at PEEP."""

    def excess(p: float) -> float:
        return _airway_pressure(state, airway_ml, p, opened * state.kept_share(p)) - peep

    return float(brentq(excess, *ends, xtol=1e-4))


def _inspiratory_pressure(
    state: _State, airway_ml: float, setting: Ventilator, tolerance: float, ends
) -> float:
    """Transpulmonary pressure that delivers the tidal volume, or that of the pressure limit."""
    peep = setting.peep_cmh2o

    def at_airway(pressure: float) -> float:
        def excess(p: float) -> float:
            return _airway_pressure(state, airway_ml, p, state.open_share(p)) - pressure

        return float(brentq(excess, *ends, xtol=1e-3))

    def shortfall(p: float) -> float:
        opened = state.open_share(p)
        rest = _expiratory_pressure(state, airway_ml, peep, opened, ends)
        expired = _total(state.gas(rest, opened * state.kept_share(rest)))
        return _total(state.gas(p, opened)) - expired - setting.tidal_volume_ml

    low, high = at_airway(peep + 0.5), at_airway(MAX_PLATEAU_CMH2O)
    if shortfall(high) < 0:
        return high
    return float(brentq(shortfall, low, high, xtol=tolerance))
