"""The state equations: what pressure, position, stage and tidal volume do to the lung's gas."""

from functools import cache
from itertools import product

import numpy as np
import pytest

from data_prep.virtual_pig.injury import STAGES
from data_prep.virtual_pig.mechanics import (
    MAX_PLATEAU_CMH2O,
    TISSUE_G_ML,
    Ventilator,
    superimposed_pressure,
)
from data_prep.virtual_pig.pig import Condition, Pig, build_pig, lung_elements, ventilate
from data_prep.virtual_pig.pressure_volume import relaxed_curve

SEED = 5
PIGS = 2
PEEPS, VOLUMES = (3, 5, 8, 13), (6, 8, 10, 12)
INJURED = ("early", "stabilised")
STATES = [(stage, prone) for stage in INJURED for prone in (False, True)]
NAMES = [f"{stage}-{'prone' if prone else 'supine'}" for stage, prone in STATES]


@cache
def animal(index: int) -> Pig:
    return build_pig(SEED, index)


@cache
def condition(index: int, stage: str, prone: bool, peep: float, ml_kg: float) -> Condition:
    setting = Ventilator(peep, ml_kg * animal(index).traits.weight_kg)
    return ventilate(animal(index), stage, setting, prone=prone)


@pytest.fixture(scope="module")
def pig() -> Pig:
    return animal(0)


def breath(pig: Pig, stage: str, peep: float, ml_kg: float, *, prone: bool = False):
    setting = Ventilator(peep, ml_kg * pig.traits.weight_kg)
    return ventilate(pig, stage, setting, prone=prone).breath


@pytest.mark.parametrize("prone", [False, True], ids=["supine", "prone"])
@pytest.mark.parametrize("stage", ["early", "stabilised"])
def test_expired_gas_rises_strictly_with_peep(pig, stage, prone):
    gas = [float(breath(pig, stage, p, 8, prone=prone).gas_ee_ml.sum()) for p in (3, 5, 8, 13)]
    assert np.all(np.diff(gas) > 5)


def test_plateau_rises_with_tidal_volume_and_with_the_disease(pig):
    early, late = (
        [breath(pig, stage, 5, v).plateau_cmh2o for v in (6, 9, 12)]
        for stage in ("early", "stabilised")
    )
    assert np.all(np.diff(early) > 1) and np.all(np.diff(late) > 1)
    assert np.all(np.subtract(late, early) > 0)


def test_tidal_volume_is_delivered_until_the_pressure_limit(pig):
    given = breath(pig, "early", 5, 8)
    assert given.delivered_ml == pytest.approx(8 * pig.traits.weight_kg, abs=0.5)
    limited = breath(pig, "stabilised", 15, 40)
    assert limited.plateau_cmh2o == pytest.approx(MAX_PLATEAU_CMH2O, abs=0.05)
    assert limited.delivered_ml < 0.8 * 40 * pig.traits.weight_kg


def test_end_expiration_rests_at_peep(pig):
    b = breath(pig, "early", 10, 8)
    t = pig.traits
    gas_ml = float(b.gas_ee_ml.sum()) + b.airway_ml
    pleural = (gas_ml - t.chest_wall_rest_ml) / t.chest_wall_ml_cmh2o
    assert b.transpulmonary_ee + pleural == pytest.approx(10, abs=0.01)


def test_injured_lung_stays_partly_closed_and_peep_opens_it(pig):
    """Units whose opening pressure exceeds the plateau stay shut (Crotti 2001)."""
    for stage in ("early", "stabilised"):
        low, high = breath(pig, stage, 3, 8), breath(pig, stage, 13, 8)
        assert low.open_ee <= low.open_ei < 0.95
        assert high.open_ei > low.open_ei + 0.03
    assert breath(pig, "healthy", 3, 8).open_ei > 0.99


def test_prone_opens_more_of_the_injured_lung(pig):
    for stage in ("early", "stabilised"):
        assert (
            breath(pig, stage, 5, 8, prone=True).open_ee > breath(pig, stage, 5, 8).open_ee + 0.01
        )


def test_superimposed_pressure_is_the_weight_above_and_turns_over(pig):
    """Lung 160 mm deep at 0.2-0.8 g/ml weighs 3-13 cmH2O (Cressoni 2014: 12-13 in ARDS)."""
    for prone in (False, True):
        e = lung_elements(pig, "early", prone=prone)
        pressure = superimposed_pressure(e, 0.7 * e.healthy_g, prone) - e.organs_cmh2o
        slope = np.polyfit(e.height_mm, pressure, 1)[0]
        assert (slope < 0) == prone
        assert 5 < np.ptp(pressure) < 16


def test_flooded_core_never_holds_gas(pig):
    e = lung_elements(pig, "stabilised", prone=False)
    flooded = e.core >= 1
    gas = breath(pig, "stabilised", 15, 12).gas_ei_ml
    assert flooded.sum() > 500
    assert gas[flooded].max() < 1e-6


def test_healthy_stage_has_no_injury_and_stabilised_is_wetter_than_early(pig):
    mass = [lung_elements(pig, stage, prone=False).mass_g for stage in STAGES]
    assert mass[0] == pytest.approx(pig.traits.healthy_lung_g, rel=1e-3)
    assert 1.1 < mass[1] / mass[0] < 1.5
    assert 1.05 < mass[2] / mass[1] < 1.4


def element_hu(c: Condition, phase: str = "expiration") -> np.ndarray:
    """HU of each element with its vessels, without airways, `[n]`."""
    e, gas = c.elements, c.breath.gas_ml(phase)
    tissue_ml = (e.tissue_g + e.vessel_g) / TISSUE_G_ML
    return -1000 * gas / np.maximum(tissue_ml + gas, 1e-9)


def shut_g(c: Condition, phase: str = "expiration") -> float:
    """Mass above -100 HU."""
    e = c.elements
    return float((e.tissue_g + e.vessel_g)[element_hu(c, phase) >= -100].sum())


def slope_hu_cm(c: Condition) -> float:
    """HU per cm from front to back."""
    return float(np.polyfit(c.elements.height_mm / 10, element_hu(c), 1)[0])


@pytest.mark.parametrize(("stage", "prone"), STATES, ids=NAMES)
def test_in_every_pig_peep_raises_gas_and_opens_lung(stage, prone):
    for index in range(PIGS):
        series = [condition(index, stage, prone, peep, 8) for peep in PEEPS]
        assert np.all(np.diff([c.breath.gas_ee_ml.sum(dtype=float) for c in series]) > 5)
        assert np.all(np.diff([shut_g(c) for c in series]) < -1)


@pytest.mark.parametrize("prone", [False, True], ids=["supine", "prone"])
def test_in_every_pig_plateau_rises_with_volume_and_late_exceeds_early(prone):
    for index in range(PIGS):
        early, late = (
            [condition(index, stage, prone, 5, v).breath.plateau_cmh2o for v in VOLUMES]
            for stage in INJURED
        )
        assert np.all(np.diff(early) > 1) and np.all(np.diff(late) > 1)
        assert np.all(np.subtract(late, early) > 1)


@pytest.mark.parametrize("peep", [3, 8, 13])
def test_in_every_pig_the_disease_closes_lung_and_prone_opens_it(peep):
    for index in range(PIGS):
        shut = {state: shut_g(condition(index, *state, peep, 8)) for state in STATES}
        for prone in (False, True):
            assert shut["early", prone] < shut["stabilised", prone]
        for stage in INJURED:
            assert shut[stage, True] < shut[stage, False]


def test_density_gradient_turns_over_with_a_healthy_pig_and_flattens_in_an_injured_one():
    for index in range(PIGS):
        supine, prone = (slope_hu_cm(condition(index, "healthy", p, 0, 8)) for p in (False, True))
        assert supine > 1 and prone < -1
        for stage in INJURED:
            supine, prone = (slope_hu_cm(condition(index, stage, p, 3, 8)) for p in (False, True))
            assert supine > prone > 0  # dorsal injury stays


def test_gas_breathed_is_the_delivered_volume_and_the_pressure_limit_the_only_reason_for_less():
    for index, (stage, prone), peep, ml_kg in product(range(PIGS), STATES, (3, 13), (8, 12)):
        b = condition(index, stage, prone, peep, ml_kg).breath
        set_ml = ml_kg * animal(index).traits.weight_kg
        gained = b.gas_ei_ml.sum(dtype=float) - b.gas_ee_ml.sum(dtype=float)
        assert gained == pytest.approx(b.delivered_ml, abs=0.01)
        assert b.plateau_cmh2o <= MAX_PLATEAU_CMH2O + 0.05
        if b.plateau_cmh2o < MAX_PLATEAU_CMH2O - 0.05:
            assert b.delivered_ml == pytest.approx(set_ml, abs=0.5)
        else:
            assert b.delivered_ml < set_ml
        assert np.all(b.gas_ei_ml >= b.gas_ee_ml - 1e-6)


def test_no_element_of_an_injured_lung_is_hyperinflated_at_the_highest_setting():
    """Hyperinflated lung (below -900 HU) stays under 1 % of mass in injured pigs."""
    for index, stage in product(range(PIGS), INJURED):
        c = condition(index, stage, False, 15, 12)
        mass = c.elements.tissue_g + c.elements.vessel_g
        assert mass[element_hu(c, "inspiration") < -900].sum() < 0.01 * mass.sum()


def test_turning_the_pig_moves_no_tissue():
    for stage in STAGES:
        supine, prone = (lung_elements(animal(0), stage, prone=p) for p in (False, True))
        np.testing.assert_array_equal(supine.tissue_g, prone.tissue_g)
        np.testing.assert_array_equal(supine.injury, prone.injury)


def test_abdomen_and_heart_press_the_dependent_lung_and_less_when_prone():
    """Albert & Hubmayr 2000: the heart lies on the lung supine, on the sternum prone."""
    supine, prone = (lung_elements(animal(0), "early", prone=p) for p in (False, True))
    assert supine.organs_cmh2o.min() >= 0
    dorsal = supine.height_mm > 0
    assert supine.organs_cmh2o[dorsal].mean() > 4 * supine.organs_cmh2o[~dorsal].mean()
    assert prone.organs_cmh2o.mean() < 0.5 * supine.organs_cmh2o.mean()


def test_coming_down_the_lung_holds_more_gas_than_going_up_and_more_so_with_the_disease():
    """Opening takes more pressure than keeping open (Crotti 2001: modes 20 and 5 cmH2O)."""
    pressures, gaps = np.arange(0.0, 46, 5), []
    for stage in STAGES:
        e = lung_elements(animal(0), stage, prone=False)
        up, down = relaxed_curve(e, animal(0).traits, STAGES[stage], pressures, prone=False)
        assert np.all(np.diff(up) > 0) and np.all(np.diff(down) > 0)
        assert np.all(down >= up - 1)
        assert up[-1] == pytest.approx(down[-1], rel=0.02)
        gaps.append((down - up).max() / np.ptp(up))
    healthy, early, late = gaps
    assert healthy < 0.02 < early < late < 0.4


def test_a_slow_curve_starts_at_the_resting_volume():
    e = lung_elements(animal(0), "healthy", prone=False)
    up, _ = relaxed_curve(e, animal(0).traits, STAGES["healthy"], np.zeros(1), prone=False)
    rest = condition(0, "healthy", False, 0, 8).breath
    assert up[0] == pytest.approx(rest.gas_ee_ml.sum(dtype=float) + rest.airway_ml, rel=0.02)


@pytest.mark.parametrize("peep", [-1.0, 45.0, float("nan"), float("inf")])
def test_a_peep_no_ventilator_gives_is_refused(peep):
    with pytest.raises(ValueError, match=r"PEEP is .* cmH2O; use 0 to below 45"):
        Ventilator(peep, 250.0)


@pytest.mark.parametrize("volume_ml", [0.0, -250.0, float("nan"), float("inf")])
def test_a_tidal_volume_that_is_not_positive_is_refused(volume_ml):
    with pytest.raises(ValueError, match=r"tidal volume is .* ml; use more than 0"):
        Ventilator(5.0, volume_ml)


def test_a_tiny_breath_is_solved():
    b = ventilate(animal(0), "early", Ventilator(5.0, 1.0), prone=False).breath
    assert b.delivered_ml == pytest.approx(1.0, abs=0.2)
