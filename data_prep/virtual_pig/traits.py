"""The scalar traits of one pig, drawn before and apart from every random field.

Because traits and fields have generators of their own, and fields live on a fixed 4 mm grid, a pig
is the same animal at every scan resolution. Means: lung mass 15 g/kg, FRC 18 and TLC 63 ml/kg
(PMC4679691); the chest wall's 1.2 ml/cmH2O/kg is what C_rs 0.77 (control pigs, J Nucl Med) leaves
it beside a lung of 20.5 cmH2O/l (Santini 2015). Spreads are choices.
"""

from dataclasses import dataclass

import numpy as np

_TRAITS, _FIELDS = 1, 2  # first word of each generator's seed sequence
_FOLDS, _EFFUSION = 40, 41
EFFUSION_SHARE = {"early": 0.18, "stabilised": 0.34}  # of pigs with pleural fluid


@dataclass(frozen=True)
class Proportions:
    """Factors (1 = the template) on the chest's sizes."""

    half_width: float
    depth_ventral: float
    depth_dorsal: float
    height: float
    dome: float
    rib_strain: float
    descent: float
    apex: float
    keel: float
    fat: float


@dataclass(frozen=True)
class Traits:
    """What differs between pigs beside shape: size, mechanics, severity."""

    weight_kg: float
    healthy_lung_g: float  # CT lung mass with blood
    gas_capacity_ml_g: float  # gas per gram of healthy tissue at full inflation
    half_inflation_cmh2o: float  # c of the local sigmoid
    sigmoid_width_cmh2o: float  # d of the local sigmoid
    chest_wall_ml_cmh2o: float
    chest_wall_rest_ml: float  # gas volume at zero pleural pressure
    severity: float
    rest_lung_ml: float  # lung volume of the reference shape
    heart_ml: float
    side_bias: float  # injury leans to the left (> 0) or right lung
    proportions: Proportions


def generator(seed: int, index: int, *purpose: int) -> np.random.Generator:
    """A generator of its own for pig `index` of cohort `seed` and a purpose."""
    return np.random.default_rng([seed, index, *purpose])


def field_generator(seed: int, index: int, field: int) -> np.random.Generator:
    """The generator of one random field, independent of all other fields."""
    return generator(seed, index, _FIELDS, field)


def draw_traits(seed: int, index: int) -> Traits:
    """The traits of pig `index` of the cohort `seed`."""
    rng = generator(seed, index, _TRAITS)

    def about(mean: float, spread: float) -> float:
        return float(mean * (1 + spread * rng.standard_normal()))

    kg = float(np.clip(rng.normal(33.0, 3.0), 27.0, 40.0))
    return Traits(
        weight_kg=kg,
        healthy_lung_g=about(14.8 * kg, 0.06),
        gas_capacity_ml_g=about(5.95, 0.05),
        half_inflation_cmh2o=float(rng.normal(12.0, 0.7)),
        sigmoid_width_cmh2o=about(6.0, 0.06),
        chest_wall_ml_cmh2o=about(1.2 * kg, 0.12),
        chest_wall_rest_ml=23.9 * kg,
        severity=float(np.clip(rng.normal(1.0, 0.18), 0.6, 1.35)),
        rest_lung_ml=about(40.0 * kg, 0.04),
        heart_ml=about(7.5 * kg, 0.08),
        side_bias=float(0.35 * rng.standard_normal()),
        proportions=Proportions(
            half_width=about(1.0, 0.03),
            depth_ventral=about(1.0, 0.03),
            depth_dorsal=about(1.0, 0.03),
            height=about(1.0, 0.03),
            dome=about(1.0, 0.04),
            rib_strain=about(1.0, 0.15),
            descent=about(1.0, 0.10),
            apex=about(1.0, 0.20),
            keel=float(rng.normal(0.10, 0.03)),
            fat=float(np.clip(about(1.0, 0.20), 0.5, 1.6)),
        ),
    )


@dataclass(frozen=True)
class Folds:
    """How one pig's septum, fissures and posture differ from the template."""

    septum_mm: float  # deviation of the septum to the left, times scale
    septum_phase: float
    fissure_mm: tuple[float, float, float]  # left oblique, right oblique, right cranial
    fissure_phase: float
    sway_mm: tuple[float, float]  # how the body leans and curves sideways, times scale


@dataclass(frozen=True)
class Effusion:
    """Free pleural fluid of one pig: ml by stage (0 = none) and its HU."""

    ml: dict[str, float]
    hu: float


def draw_folds(seed: int, index: int) -> Folds:
    """The folds of pig `index` of the cohort `seed`."""
    rng = generator(seed, index, _FOLDS)
    return Folds(
        septum_mm=float(rng.normal(5.0, 1.5)),
        septum_phase=float(rng.uniform(0, 2 * np.pi)),
        fissure_mm=tuple(rng.normal(0, 4.0, 3).tolist()),
        fissure_phase=float(rng.uniform(0, 2 * np.pi)),
        sway_mm=tuple(np.clip(rng.normal(0, 3.5, 2), -7, 7).tolist()),
    )


def draw_effusion(seed: int, index: int) -> Effusion:
    """Fluid in about a sixth of the pigs early and a third at 24 h, 20 to 150 ml, 5 to 15 HU.

    Who has fluid early has more at 24 h; a healthy pig has none.
    """
    rng = generator(seed, index, _EFFUSION)
    rank, late_ml = float(rng.random()), float(np.exp(rng.uniform(np.log(40), np.log(150))))
    early_share = float(rng.uniform(0.5, 0.8))
    ml = {
        "healthy": 0.0,
        "early": late_ml * early_share if rank < EFFUSION_SHARE["early"] else 0.0,
        "stabilised": late_ml if rank < EFFUSION_SHARE["stabilised"] else 0.0,
    }
    return Effusion(ml, hu=float(rng.uniform(5, 15)))
