"""The state equations: what pressure, position, stage and tidal volume do to the lung's gas."""

import numpy as np
import pytest

from data_prep.virtual_pig.injury import STAGES
from data_prep.virtual_pig.mechanics import MAX_PLATEAU_CMH2O, Ventilator, superimposed_pressure
from data_prep.virtual_pig.pig import Pig, build_pig, lung_elements, ventilate

SEED = 5


@pytest.fixture(scope="module")
def pig() -> Pig:
    return build_pig(SEED, 0)


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
        pressure = superimposed_pressure(e, 0.7 * e.healthy_g, prone) - e.heart_cmh2o
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
