"""What is measured of one virtual pig to set beside the literature; `calibration` runs it.

Figures go by the names that `calibration_anchors` uses. Recruitment follows tissue elements between
states, as registered scans do (Xin 2021); volumes and compartments of states are those of scans.
"""

import itertools
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.virtual_pig.deformation import scan_pose
from data_prep.virtual_pig.injury import STAGES
from data_prep.virtual_pig.mechanics import TISSUE_G_ML, Breath, Ventilator
from data_prep.virtual_pig.pig import (
    Condition,
    Pig,
    build_pig,
    lung_elements,
    lung_state,
    ventilate,
)
from data_prep.virtual_pig.pressure_volume import relaxed_curve
from data_prep.virtual_pig.render import render, scan_lattice
from data_prep.virtual_pig.shape import cavity_bottom_mm
from data_prep.virtual_pig.truth import COMPARTMENTS, lung_truth

TIDAL_ML_KG, SPACING_MM = 8.0, 4.0
INJURED = ("early", "stabilised")
PEEP = (3, 5, 8, 13)
SCANNED_PEEP = (3, 5, 8, 10, 13, 15)
END_PEEP, END_ML_KG = (3, 8, 15), (6, 12)  # ends of the design's settings
NON_AERATED_HU = -100.0
PRESSURES = np.arange(0.0, 45.5, 2.5)  # cmH2O, of the relaxed curves
Numbers = dict[str, float]


@dataclass(frozen=True)
class View:
    """A scan of the table."""

    stage: str
    prone: bool
    peep: float
    phase: str

    @property
    def name(self) -> str:
        where = f"{self.stage} {position(self.prone)} PEEP {self.peep:g}"
        return f"{where} {'EI' if self.phase == 'inspiration' else 'EE'}"


def views() -> list[View]:
    """The states of science notes 1.2: healthy, then each stage at PEEP 3, 8, 13."""
    phases = ("expiration", "inspiration")
    rows = [View("healthy", prone, 0, "expiration") for prone in (False, True)]
    for stage in INJURED:
        rows += [View(stage, False, p, phase) for p in (3, 8, 13) for phase in phases]
        rows += [View(stage, True, p, "expiration") for p in (3, 13)]
    return rows


def position(prone: bool) -> str:
    return "prone" if prone else "supine"


class Bench:
    """One pig with its breaths, each solved once."""

    def __init__(self, pig: Pig) -> None:
        self.pig, self.kg = pig, pig.traits.weight_kg
        self.ventilate = cache(self._ventilate)

    def _ventilate(self, stage: str, prone: bool, peep: float, ml_kg: float) -> Condition:
        setting = Ventilator(float(peep), ml_kg * self.kg)
        return ventilate(self.pig, stage, setting, prone=prone)

    def gas_ml(self, stage: str, prone: bool, peep: float, phase: str = "expiration") -> float:
        breath = self.ventilate(stage, prone, peep, TIDAL_ML_KG).breath
        return float(breath.gas_ml(phase).sum(dtype=float)) + breath.airway_ml


def rendered(bench: Bench, view: View, spacing_mm: float = SPACING_MM) -> Numbers:
    """The row of one view: volumes, mass, mechanics, compartments in %."""
    condition = bench.ventilate(view.stage, view.prone, view.peep, TIDAL_ML_KG)
    state, kg = lung_state(condition, view.phase), bench.kg
    spacing = (spacing_mm,) * 3
    grid = scan_lattice(
        bench.pig, cavity_bottom_mm(scan_pose(state)), spacing, np.random.default_rng(0)
    )
    truth = lung_truth(render(state, grid, couch=False))
    row = {
        "lung_volume_ml": truth["lung_volume_ml"],
        "gas_ml": truth["gas_ml"],
        "gas_ml_kg": truth["gas_ml"] / kg,
        "mass_g": truth["tissue_g"],
        "mass_g_kg": truth["tissue_g"] / kg,
        "plateau_cmh2o": condition.breath.plateau_cmh2o,
        "compliance_ml_cmh2o_kg": condition.breath.compliance_ml_cmh2o / kg,
    }
    row |= {f"{c}_mass_percent": 100 * truth[f"{c}_mass_fraction"] for c in COMPARTMENTS}
    return row | {"normal_volume_percent": 100 * truth["normal_volume_fraction"]}


def element_hu(condition: Condition, phase: str = "expiration") -> tuple[np.ndarray, np.ndarray]:
    """HU and mass (g) of each tissue element, which registration of scans would follow, `[n]`."""
    e, gas = condition.elements, condition.breath.gas_ml(phase)
    mass = e.tissue_g + e.vessel_g
    tissue_ml = mass / TISSUE_G_ML
    return -1000 * gas / np.maximum(tissue_ml + gas, 1e-9), mass


def reinflated(before: tuple, after: tuple) -> tuple[float, float]:
    """% of lung mass that is non-aerated before and aerated after: element by element, and net."""
    (hu, mass), (later, _) = before, after
    shut, still = hu >= NON_AERATED_HU, later >= NON_AERATED_HU
    percent = 100 / mass.sum()
    gross, again = mass[shut & ~still].sum(), mass[still & ~shut].sum()
    return float(percent * gross), float(percent * (gross - again))


def recruitment(bench: Bench, stage: str) -> Numbers:
    """What prone, PEEP and the breath itself recruit, % of lung mass."""
    hu = {
        (prone, peep, phase): element_hu(bench.ventilate(stage, prone, peep, TIDAL_ML_KG), phase)
        for prone, peep, phase in itertools.product(
            (False, True), PEEP, ("expiration", "inspiration")
        )
    }
    found: Numbers = {}
    for peep in PEEP:
        supine, prone = hu[False, peep, "expiration"], hu[True, peep, "expiration"]
        gross, net = reinflated(supine, prone)
        found[f"{stage} prone reinflates at PEEP {peep}, % of mass"] = gross
        found[f"{stage} prone recruits net at PEEP {peep}, % of mass"] = net
        tidal = reinflated(supine, hu[False, peep, "inspiration"])[0]
        found[f"{stage} tidal recruitment at PEEP {peep}, % of mass"] = tidal
    low, high = hu[False, 3, "expiration"], hu[False, 13, "expiration"]
    found[f"{stage} PEEP 3 to 13 recruits, % of mass"] = reinflated(low, high)[1]
    return found


def injured_mechanics(bench: Bench, stage: str) -> Numbers:
    """Plateau at the settings published for HCl pigs, weight of the lung, best PEEP."""
    found: Numbers = {}
    for ml_kg, peep, prone in ((9, 5, False), (7, 12, False), (10, 6, True)):
        breath = bench.ventilate(stage, prone, peep, ml_kg).breath
        name = f"{stage} {position(prone)} V_T {ml_kg} PEEP {peep}"
        found[f"{name} plateau, cmH2O"] = breath.plateau_cmh2o
        found[f"{name} C_rs, ml/cmH2O/kg"] = breath.compliance_ml_cmh2o / bench.kg
    for prone in (False, True):
        breaths = {p: bench.ventilate(stage, prone, p, TIDAL_ML_KG).breath for p in SCANNED_PEEP}
        name = f"{stage} {position(prone)}"
        weight = breaths[3].superimposed_max_cmh2o
        found[f"{name} superimposed pressure max at PEEP 3, cmH2O"] = weight
        best = max(SCANNED_PEEP, key=lambda p: lung_compliance(breaths[p]))
        found[f"{name} PEEP of best lung compliance, cmH2O"] = float(best)
    found[f"{stage} lung mass, g"] = bench.ventilate(stage, False, 3, TIDAL_ML_KG).elements.mass_g
    return found


def lung_compliance(breath: Breath) -> float:
    return breath.delivered_ml / (breath.transpulmonary_ei - breath.transpulmonary_ee)


def venegas(pressure: np.ndarray, a: float, b: float, c: float, d: float) -> np.ndarray:
    """Venegas 1998: volume a + b / (1 + exp(-(P - c) / d)), ml."""
    return a + b / (1 + np.exp(-(pressure - c) / d))


def healthy_mechanics(bench: Bench) -> Numbers:
    """FRC, TLC, the P-V curve, elastance."""
    kg = bench.kg
    frc = {prone: bench.gas_ml("healthy", prone, 0) for prone in (False, True)}
    found = {
        "healthy supine FRC, ml/kg": frc[False] / kg,
        "healthy prone FRC over supine, %": 100 * (frc[True] / frc[False] - 1),
        "healthy lung mass, g/kg": bench.pig.traits.healthy_lung_g / kg,
    }
    for prone in (False, True):
        breath = bench.ventilate("healthy", prone, 0, TIDAL_ML_KG).breath
        elastance = 1000 / lung_compliance(breath)  # cmH2O/l
        found[f"healthy {position(prone)} lung elastance x kg, cmH2O kg/l"] = elastance * kg
        specific = elastance * frc[prone] / 1000
        found[f"healthy {position(prone)} specific elastance, cmH2O"] = specific
    control = bench.ventilate("healthy", False, 3, 10).breath
    found["healthy supine V_T 10 PEEP 3 plateau, cmH2O"] = control.plateau_cmh2o
    found["healthy supine V_T 10 PEEP 3 C_rs, ml/cmH2O/kg"] = control.compliance_ml_cmh2o / kg
    found["healthy superimposed pressure max, cmH2O"] = control.superimposed_max_cmh2o
    return found | pressure_volume(bench, frc[False])


def pressure_volume(bench: Bench, frc_ml: float) -> Numbers:
    """TLC and Venegas's c and d of the healthy inflation limb with a FRC and b the capacity."""
    up, _ = curves(bench, "healthy")

    def limb(pressure: np.ndarray, c: float, d: float) -> np.ndarray:
        return venegas(pressure, frc_ml, up[-1] - frc_ml, c, d)

    fit, _ = curve_fit(limb, PRESSURES, up, (18.0, 6.0))
    found = {"healthy TLC at 45 cmH2O, ml/kg": up[-1] / bench.kg}
    found |= {"healthy P-V c, cmH2O": float(fit[0]), "healthy P-V d, cmH2O": float(fit[1])}
    return found | {"healthy P-V upper inflection c + 2 d, cmH2O": float(fit[0] + 2 * fit[1])}


def curves(bench: Bench, stage: str) -> tuple[np.ndarray, np.ndarray]:
    """Gas (ml) of the inflation limb from rest and of the deflation limb from 45 cmH2O."""
    e = lung_elements(bench.pig, stage, prone=False)
    return relaxed_curve(e, bench.pig.traits, STAGES[stage], PRESSURES, prone=False)


def hysteresis(bench: Bench, stage: str) -> Numbers:
    """Widest gap of the limbs as a share of the inspiratory capacity, %."""
    up, down = curves(bench, stage)
    return {f"{stage} hysteresis, % of capacity": float(100 * (down - up).max() / np.ptp(up))}


def directions(figures: Numbers) -> Numbers:
    """What turning prone does to lung mechanics, prone over supine."""
    names = {
        "healthy {} lung elastance": " x kg, cmH2O kg/l",
        "healthy {} specific elastance": ", cmH2O",
        "early {} PEEP of best lung compliance": ", cmH2O",
    }
    return {
        name.format("prone over supine"): figures[name.format("prone") + unit]
        / figures[name.format("supine") + unit]
        for name, unit in names.items()
    }


def design_volumes(bench: Bench) -> list[float]:
    """Lung volume (ml) at the ends of the design's settings."""
    found = []
    for stage, prone, peep, ml_kg in itertools.product(INJURED, (False, True), END_PEEP, END_ML_KG):
        condition = bench.ventilate(stage, prone, peep, ml_kg)
        found += [lung_state(condition, p).lung_ml for p in ("expiration", "inspiration")]
    return found


def measure(
    seed: int, index: int, spacing_mm: float = SPACING_MM
) -> tuple[dict[str, Numbers], Numbers, list[float]]:
    """Rows by view, figures by name, and the design's lung volumes of pig `index` of `seed`."""
    bench = Bench(build_pig(seed, index))
    rows = {view.name: rendered(bench, view, spacing_mm) for view in views()}
    figures = healthy_mechanics(bench)
    for view in (False, True):
        row = rows[View("healthy", view, 0, "expiration").name]
        for name in COMPARTMENTS:
            figures[f"healthy {position(view)} {name}, % of mass"] = row[f"{name}_mass_percent"]
    for stage in INJURED:
        figures |= recruitment(bench, stage) | injured_mechanics(bench, stage)
        figures |= hysteresis(bench, stage)
        shares = [row["hyper_mass_percent"] for n, row in rows.items() if n.startswith(stage)]
        figures[f"{stage} hyper at most, % of mass"] = max(shares)
    return rows, figures | directions(figures), design_volumes(bench)
